// The actions of tests/support/actions.py for postgres.js, and some of its own; see harness.js.

'use strict'

const assert = require('node:assert/strict')
const { randomBytes } = require('node:crypto')
const fs = require('node:fs')
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const postgres = require('postgres')
const { settings, range, untilRunning, main } = require('./harness')

const options = (extra = {}) => ({
  host: settings.host,
  port: settings.port,
  user: settings.user,
  password: settings.password,
  database: settings.database,
  ssl: settings.ca ? { ca: fs.readFileSync(settings.ca), rejectUnauthorized: true } : false,
  max: 1,
  ...extra,
})

// With `max: 1` all queries take the same connection; else postgres.js is a pool.
const withSql = async (body, extra) => {
  const sql = postgres(options(extra))
  try {
    return await body(sql)
  } finally {
    await sql.end()
  }
}

const rejects = (promise, code) => assert.rejects(promise, (error) => assert.equal(error.code, code) ?? true)
const plain = (rows) => rows.map((row) => ({ ...row }))
const create = (sql) => sql`create table ${sql(settings.table)} (a int primary key)`
const insert = (sql, value) => sql`insert into ${sql(settings.table)} values (${value})`
const numbers = async (sql) => (await sql`select a from ${sql(settings.table)} order by a`).map(({ a }) => a)

const refuses = (code, extra) => withSql((sql) => rejects(Promise.resolve(sql`select 1`), code), extra)

const actions = {
  async connect() {
    await withSql(async (sql) => {
      assert.deepEqual(plain(await sql`select current_user::text as who`), [{ who: settings.user }])
    })
    await refuses('28P01', { password: 'wrong' })
    await refuses('3D000', { database: 'nowhere' })
    if (settings.ca) {
      const ca = fs.readFileSync(settings.stranger_ca)
      await refuses('UNABLE_TO_VERIFY_LEAF_SIGNATURE', { ssl: { ca, rejectUnauthorized: true } })
    }
  },

  async query() {
    await withSql(async (sql) => {
      const found = await sql`select 1 as a, 'x' as "B c", null::text as d`
      assert.deepEqual(found.columns.map(({ name }) => name), ['a', 'B c', 'd'])
      assert.deepEqual(plain(found), [{ a: 1, 'B c': 'x', d: null }])
      assert.deepEqual(plain(await sql`select 1 where false`), [])
      assert.deepEqual(plain(await sql.unsafe('')), [])
      const several = await sql`select 1 as a; select 2 as b`.simple()
      assert.deepEqual(several.map(plain), [[{ a: 1 }], [{ b: 2 }]])
      assert.deepEqual([...(await sql`select 1, 'x', 2`.values())], [[1, 'x', 2]])
      const described = await sql`select ${1}::int8 as a, ${'x'}::text as b`.describe()
      assert.deepEqual([described.types, described.columns.map(({ type }) => type)], [[20, 25], [20, 25]])
    })
  },

  async parameters() {
    const values = {
      int4: 7,
      int8: '-4611686018427387904',
      float8: 1.5,
      numeric: '12345678901234567890.0123456789',
      text: 'O\'Reilly \\ "quoted" \u20ac \u{1F418} $1 %s',
      bytea: Buffer.from([0, 1, 255, 39, 92]),
      bool: true,
      varchar: null,
      timestamptz: new Date('2024-02-29T23:59:59.999Z'),
      uuid: '12345678-1234-5678-1234-567812345678',
      'int4[]': [1, 2, 3], // postgres.js takes a NULL in an array for a text or number
      'text[]': ['a,b', 'c"d', '{}', ''],
      jsonb: { a: [1, null, '\u20ac'] },
    }
    const columns = Object.keys(values).map((type, place) => `$${place + 1}::${type}`)
    for (const prepare of [true, false]) {
      await withSql(async (sql) => {
        const found = await sql.unsafe(`select ${columns.join(', ')}`, Object.values(values), { prepare }).values()
        assert.deepEqual([...found], [Object.values(values)])
      })
    }
  },

  // postgres.js prepares whatever it runs, and leaves it to its user to switch that off.
  async prepared() {
    for (const prepare of [true, false]) {
      await withSql(
        async (sql) => {
          const twice = async (sql, number) => (await sql`select ${number}::int * 2 as n`)[0].n
          for (const number of range(100)) {
            assert.equal(await twice(sql, number), 2 * number)
            const column = sql.unsafe(`c${number % 7}`)
            assert.deepEqual(plain(await sql`select 1 as ${column}`), [{ [`c${number % 7}`]: 1 }])
          }
          const inside = await sql.begin((sql) => Promise.all([twice(sql, -1), twice(sql, -2)]))
          assert.deepEqual(inside, [-2, -4])
          assert.equal(await twice(sql, 21), 42)
        },
        { prepare },
      )
    }
  },

  async transactions() {
    await withSql(async (sql) => {
      await create(sql)
      const givenUp = sql.begin(async (sql) => {
        await insert(sql, 1)
        throw new Error('given up')
      })
      await assert.rejects(givenUp, /given up/)
      assert.deepEqual(await numbers(sql), [])
      const [, second] = await sql.begin((sql) => [insert(sql, 2), sql`select txid_current_if_assigned() as id`])
      assert.notEqual(second[0].id, null)
      assert.deepEqual(await numbers(sql), [2])
      await rejects(sql.begin('read only', (sql) => insert(sql, 3)), '25006')
      assert.deepEqual(await numbers(sql), [2])
    })
  },

  async savepoints() {
    await withSql(async (sql) => {
      await create(sql)
      await sql.begin(async (sql) => {
        await insert(sql, 1)
        const violated = sql.savepoint(async (sql) => {
          await insert(sql, 2)
          await insert(sql, 1)
        })
        await rejects(violated, '23505')
        await sql.savepoint('kept', (sql) => insert(sql, 3))
      })
      assert.deepEqual(await numbers(sql), [1, 3])
    })
  },

  async errors() {
    await withSql(async (sql) => {
      await create(sql)
      await rejects(sql`selec 1`, '42601')
      await rejects(sql`selec ${1}`, '42601')
      await rejects(sql`selec 1`.simple(), '42601')
      await insert(sql, 1)
      await rejects(insert(sql, 1), '23505')
      const failed = sql.begin(async (sql) => {
        await insert(sql, 2)
        await rejects(sql`select 1 / ${0}::int`, '22012')
        await rejects(sql`select 1`, '25P02')
        await rejects(sql`select ${1}::int`, '25P02')
      })
      await rejects(failed, '22012') // the first error is the transaction's, whoever caught it
      assert.deepEqual(await numbers(sql), [1])
    })
  },

  // After CopyDone postgres.js says CopyFail too, whenever its stream is destroyed. Servers must ignore it.
  async copy_in() {
    const lines = (values) => Readable.from(values.map((value) => `${value}\n`))
    await withSql(async (sql) => {
      const copy = () => sql`copy ${sql(settings.table)} from stdin`.writable()
      await create(sql)
      await pipeline(lines(range(20000)), await copy())
      assert.deepEqual(await numbers(sql), range(20000))
      const brokenOff = await copy()
      brokenOff.write('-2\n')
      brokenOff.destroy(new Error('broken off'))
      await new Promise((resolve) => brokenOff.on('error', resolve))
      assert.deepEqual(await numbers(sql), range(20000))
    })
  },

  // After more than 16 KB its connection stays paused, on PostgreSQL too (3.4.9): the stream is all that it gives.
  async copy_out() {
    const copied = async (sql, rows) => {
      const copy = `copy (select i, 'row ' || i from generate_series(1, ${rows}) as i) to stdout`
      const received = []
      for await (const chunk of await sql.unsafe(copy).readable()) received.push(chunk)
      const expected = range(rows, 1).map((number) => `${number}\trow ${number}\n`)
      assert.equal(Buffer.concat(received).toString(), expected.join(''))
    }
    await withSql(async (sql) => {
      await copied(sql, 1000)
      assert.deepEqual(plain(await sql`select 1 as one`), [{ one: 1 }])
      await copied(sql, 20000)
      await sql.end({ timeout: 0 })
    })
  },

  // Up to 100 queries are under way on a connection, each with a Sync of its own.
  async pipeline() {
    await withSql(async (sql) => {
      await create(sql)
      const found = await Promise.all(range(200).map((n) => sql`select ${n}::int as n`))
      assert.deepEqual(found.map(plain), range(200).map((n) => [{ n }]))
      const settled = await Promise.allSettled([
        insert(sql, 1),
        sql`select 1 / ${0}::int`,
        insert(sql, 2),
        sql`selec 1`,
        sql`select 1 / 0; select 2`.simple(),
        insert(sql, 1),
        sql`select 3 as n`,
      ])
      const codes = settled.map((outcome) => outcome.reason?.code ?? null)
      assert.deepEqual(codes, [null, '22012', null, '42601', '22012', '23505', null])
      assert.deepEqual(await numbers(sql), [1, 2])
    })
  },

  async cancel() {
    await withSql(async (sql) => {
      const running = sql.unsafe(settings.long_query).execute()
      const cancelled = rejects(running, '57014')
      await untilRunning()
      await running.cancel()
      await cancelled
      assert.deepEqual(plain(await sql`select 1 as one`), [{ one: 1 }])
    })
  },

  async many_rows() {
    await withSql(async (sql) => {
      let place = 0
      await sql.unsafe(settings.many_rows_sql).forEach(({ i, name }) => {
        place += 1
        assert.ok(i === place && name === `row ${place}`)
      })
      assert.equal(place, settings.many_rows)
      let total = 0
      for await (const rows of sql.unsafe(settings.many_rows_sql).cursor(10000)) total += rows.length
      assert.equal(total, settings.many_rows)
    })
  },

  async big_value() {
    const value = randomBytes((settings.big_value_bytes * 3) / 4).toString('base64')
    await withSql(async (sql) => {
      const [row] = await sql`select length(${value}::text), ${value}::text as v`
      assert.equal(row.length, settings.big_value_bytes)
      assert.ok(row.v === value)
    })
  },

  // postgres.js sends Execute with a limit and the next one only when the rows are dealt with; without a
  // transaction, so the portal lives until the Sync that ends it all.
  async cursors() {
    await withSql(async (sql) => {
      const rows = (count) => sql`select i from generate_series(1, ${count}::int) as i`
      const sizes = []
      for await (const some of rows(250).cursor(100)) sizes.push(some.length)
      assert.deepEqual(sizes, [100, 100, 50])
      for await (const [{ i }] of rows(250).cursor()) if (i === 3) break
      const called = []
      await rows(250).cursor(10, (some) => {
        called.push(...some.map(({ i }) => i))
        return called.length === 20 ? sql.CLOSE : undefined
      })
      assert.deepEqual(called, range(20, 1))
      const failing = sql`select 1 / (30 - i) from generate_series(1, 50) as i`
      await rejects(failing.cursor(10, () => {}), '22012')
      const givenUp = rows(250).cursor(10, () => Promise.reject(new Error('given up')))
      await assert.rejects(givenUp, /given up/)
      const inside = await sql.begin(async (sql) => {
        const found = []
        for await (const some of sql`select i from generate_series(1, 30) as i`.cursor(7)) found.push(...some)
        return [found.length, (await sql`select 1 as one`)[0].one]
      })
      assert.deepEqual(inside, [30, 1])
    })
  },

  // `sql.listen` opens a connection of its own for all channels.
  async listen() {
    const channels = ['one', 'Two "quoted"'].map((name) => `${name} ${settings.table}`)
    const received = []
    let complete
    const all = new Promise((resolve) => (complete = resolve))
    await withSql(async (sql) => {
      const subscriptions = []
      for (const channel of channels) {
        const heard = (payload) => {
          received.push([channel, payload])
          if (payload === 'last') complete()
        }
        subscriptions.push(await sql.listen(channel, heard))
      }
      const expected = []
      for (const number of range(20)) {
        expected.push([channels[number % 2], `${number}`])
        await sql.notify(channels[number % 2], number)
      }
      const rolledBack = sql.begin(async (sql) => {
        await sql`select pg_notify(${channels[0]}, 'rolled back')`
        throw new Error('given up')
      })
      await assert.rejects(rolledBack, /given up/)
      await sql.notify(channels[0], 'last')
      await all
      assert.deepEqual(received, [...expected, [channels[0], 'last']])
      for (const { unlisten } of subscriptions) await unlisten()
    })
  },

  // What most programs do: a pool in front of the pool, with failing queries and transactions in between.
  async concurrent() {
    await withSql(
      async (sql) => {
        await create(sql)
        const work = (n) => {
          if (n % 10 === 3) return rejects(sql`select ${n}::int / 0`, '22012').then(() => n)
          if (n % 10 === 7) {
            return sql.begin(async (sql) => {
              await insert(sql, n)
              return (await sql`select a from ${sql(settings.table)} where a = ${n}`)[0].a
            })
          }
          return sql`select ${n}::int as n`.then(([row]) => row.n)
        }
        assert.deepEqual(await Promise.all(range(1000).map(work)), range(1000))
        assert.deepEqual(await numbers(sql), range(100).map((n) => 10 * n + 7))
      },
      { max: 8 },
    )
  },

  async session_settings() {
    const shown = async (sql, name) => Object.values((await sql`show ${sql(name)}`)[0])[0]
    const connection = { application_name: 'one', statement_timeout: 61000, options: '-c work_mem=3MB' }
    await withSql(
      (one) =>
        withSql(async (other) => {
          await one`set timezone = 'Asia/Tokyo'`
          await other`set timezone = 'Europe/Oslo'`
          for (const _ of range(3)) {
            assert.equal(await shown(one, 'timezone'), 'Asia/Tokyo')
            assert.equal(await shown(one, 'application_name'), 'one')
            assert.equal(await shown(one, 'statement_timeout'), '61s')
            assert.equal(await shown(one, 'work_mem'), '3MB')
            assert.equal(await shown(other, 'timezone'), 'Europe/Oslo')
            assert.equal(await shown(other, 'application_name'), 'postgres.js')
            assert.equal(await shown(other, 'statement_timeout'), '0')
          }
          const inside = await one.begin(async (one) => {
            await one`set local work_mem = '5MB'`
            return shown(one, 'work_mem')
          })
          assert.deepEqual([inside, await shown(one, 'work_mem')], ['5MB', '3MB'])
        }),
      { connection },
    )
  },
}

main(actions)
