// The actions of tests/support/actions.py for node-postgres, and some of its own; see harness.js.

'use strict'

const assert = require('node:assert/strict')
const { randomBytes } = require('node:crypto')
const fs = require('node:fs')
const { pipeline } = require('node:stream/promises')
const { Readable, Writable } = require('node:stream')
const { Client, Pool } = require('pg')
const { from: copyFrom, to: copyTo } = require('pg-copy-streams')
const Cursor = require('pg-cursor')
const { settings, range, untilRunning, main } = require('./harness')

const options = (extra = {}) => ({
  host: settings.host,
  port: settings.port,
  user: settings.user,
  password: settings.password,
  database: settings.database,
  ssl: settings.ca ? { ca: fs.readFileSync(settings.ca), rejectUnauthorized: true } : false,
  ...extra,
})

const withClient = async (body, extra) => {
  const client = new Client(options(extra))
  await client.connect()
  try {
    return await body(client)
  } finally {
    await client.end()
  }
}

const rejects = (promise, code) => assert.rejects(promise, (error) => assert.equal(error.code, code) ?? true)
const numbers = async (client) =>
  (await client.query(`select a from ${settings.table} order by a`)).rows.map((row) => row.a)
const insert = (client, ...values) => client.query(`insert into ${settings.table} values ($1)`, values)

const refuses = async (code, extra) => {
  const client = new Client(options(extra))
  client.on('error', () => {}) // the socket's end after the refusal
  await rejects(client.connect(), code)
}

const actions = {
  async connect() {
    await withClient(async (client) => {
      assert.deepEqual((await client.query('select current_user::text as who')).rows, [{ who: settings.user }])
      assert.equal(client.connection.stream.encrypted === true, Boolean(settings.ca))
    })
    await refuses('28P01', { password: 'wrong' })
    await refuses('3D000', { database: 'nowhere' })
    if (settings.ca) {
      await refuses('UNABLE_TO_VERIFY_LEAF_SIGNATURE', { ssl: { ca: fs.readFileSync(settings.stranger_ca) } })
    }
  },

  // node-postgres binds whenever it can and cannot demand it, so we look at what it chose.
  async bind_channel() {
    const client = new Client(options({ enableChannelBinding: true }))
    const chosen = []
    const send = client.connection.sendSASLInitialResponseMessage
    client.connection.sendSASLInitialResponseMessage = function (mechanism, response) {
      chosen.push(mechanism)
      return send.call(this, mechanism, response)
    }
    await client.connect()
    await client.end()
    assert.deepEqual(chosen, [settings.ca ? 'SCRAM-SHA-256-PLUS' : 'SCRAM-SHA-256'])
  },

  async query() {
    await withClient(async (client) => {
      const found = await client.query(`select 1 as a, 'x' as "B c", null::text as d`)
      assert.deepEqual(found.fields.map((field) => field.name), ['a', 'B c', 'd'])
      assert.deepEqual(found.rows, [{ a: 1, 'B c': 'x', d: null }])
      assert.deepEqual((await client.query('select 1 where false')).rows, [])
      assert.deepEqual((await client.query('')).rows, [])
      const several = await client.query('select 1 as a; select 2 as b')
      assert.deepEqual(several.map((result) => result.rows), [[{ a: 1 }], [{ b: 2 }]])
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
      'int4[]': [1, 2, null, 3],
      'text[]': ['a,b', 'c"d', '{}', null, ''],
      jsonb: { a: [1, null, '\u20ac'] },
    }
    const columns = Object.keys(values).map((type, place) => `$${place + 1}::${type}`)
    const text = `select ${columns.join(', ')}`
    await withClient(async (client) => {
      const found = await client.query({ text, values: Object.values(values), rowMode: 'array' })
      assert.deepEqual(found.rows, [Object.values(values)])
    })
  },

  async prepared() {
    const twice = (number) => ({ name: 'twice', text: 'select $1::int * 2 as n', values: [number] })
    await withClient(async (client) => {
      for (const number of range(100)) {
        assert.equal((await client.query(twice(number))).rows[0].n, 2 * number)
        const other = { name: `other ${number % 7}`, text: `select $1::int + ${number % 7} as n`, values: [1] }
        assert.equal((await client.query(other)).rows[0].n, 1 + (number % 7))
      }
      await client.query('begin')
      assert.equal((await client.query(twice(-1))).rows[0].n, -2)
      await client.query('rollback')
      assert.equal((await client.query(twice(21))).rows[0].n, 42)
    })
  },

  async transactions() {
    await withClient(async (client) => {
      await client.query(`create table ${settings.table} (a int primary key)`)
      await client.query('begin')
      await insert(client, 1)
      await client.query('rollback')
      assert.deepEqual(await numbers(client), [])
      await client.query('begin')
      await insert(client, 2)
      assert.equal((await client.query('commit')).command, 'COMMIT')
      assert.deepEqual(await numbers(client), [2])
    })
  },

  async savepoints() {
    await withClient(async (client) => {
      await client.query(`create table ${settings.table} (a int primary key)`)
      await client.query('begin')
      await insert(client, 1)
      await client.query('savepoint before')
      await insert(client, 2)
      await rejects(insert(client, 1), '23505')
      await client.query('rollback to before')
      await insert(client, 3)
      await client.query('commit')
      assert.deepEqual(await numbers(client), [1, 3])
    })
  },

  async errors() {
    await withClient(async (client) => {
      await client.query(`create table ${settings.table} (a int primary key)`)
      await rejects(client.query('selec 1'), '42601')
      await rejects(client.query('selec $1', [1]), '42601')
      await insert(client, 1)
      await rejects(insert(client, 1), '23505')
      await client.query('begin')
      await insert(client, 2)
      await rejects(client.query('select 1 / $1::int', [0]), '22012')
      await rejects(client.query('select 1'), '25P02')
      await rejects(client.query('select $1::int', [1]), '25P02')
      assert.equal((await client.query('commit')).command, 'ROLLBACK')
      assert.deepEqual(await numbers(client), [1])
    })
  },

  async copy_in() {
    const sql = `copy ${settings.table} from stdin`
    const lines = (values) => Readable.from(values.map((value) => `${value}\n`))
    await withClient(async (client) => {
      await client.query(`create table ${settings.table} (a int primary key)`)
      await pipeline(lines(range(20000)), client.query(copyFrom(sql)))
      await rejects(pipeline(lines([-1, 1]), client.query(copyFrom(sql))), '23505')
      const brokenOff = client.query(copyFrom(sql))
      brokenOff.write('-2\n')
      brokenOff.destroy(new Error('broken off'))
      await new Promise((resolve) => brokenOff.on('error', resolve))
      assert.deepEqual(await numbers(client), range(20000))
    })
  },

  async copy_out() {
    const sql = "copy (select i, 'row ' || i from generate_series(1, 20000) as i) to stdout"
    await withClient(async (client) => {
      const received = []
      const keep = new Writable({ write: (chunk, _, done) => done(null, received.push(chunk)) })
      await pipeline(client.query(copyTo(sql)), keep)
      const expected = range(20000, 1).map((number) => `${number}\trow ${number}\n`)
      assert.equal(Buffer.concat(received).toString(), expected.join(''))
      assert.deepEqual((await client.query('select 1 as one')).rows, [{ one: 1 }])
    })
  },

  async pipeline() {
    await withClient(
      async (client) => {
        await client.query(`create table ${settings.table} (a int primary key)`)
        const found = await Promise.all(range(200).map((n) => client.query('select $1::int as n', [n])))
        assert.deepEqual(found.map((result) => result.rows), range(200).map((n) => [{ n }]))
        const settled = await Promise.allSettled([
          insert(client, 1),
          client.query('select 1 / $1::int', [0]),
          insert(client, 2), // after a Sync of its own
          client.query('begin'),
          insert(client, 3),
          insert(client, 3),
          client.query('select 1'),
          client.query('rollback'),
        ])
        const codes = settled.map((outcome) => outcome.reason?.code ?? null)
        assert.deepEqual(codes, [null, '22012', null, null, null, '23505', '25P02', null])
        assert.deepEqual(await numbers(client), [1, 2])
      },
      { pipeline: true },
    )
  },

  // By a plain connection even if the client's has TLS: node-postgres knows no other way, and PostgreSQL accepts it.
  async cancel() {
    await withClient(async (client) => {
      const running = rejects(client.query(settings.long_query), '57014')
      await untilRunning()
      const canceller = new Client(options({ ssl: false }))
      canceller.connection.on('error', () => {})
      const closed = new Promise((resolve) => canceller.connection.on('end', resolve))
      canceller.cancel(client, client.activeQuery)
      await running
      await closed
      assert.deepEqual((await client.query('select 1 as one')).rows, [{ one: 1 }])
    })
  },

  async many_rows() {
    await withClient(async (client) => {
      const { rows } = await client.query({ text: settings.many_rows_sql, rowMode: 'array' })
      assert.equal(rows.length, settings.many_rows)
      assert.ok(rows.every(([number, name], place) => number === place + 1 && name === `row ${number}`))
    })
  },

  async big_value() {
    const value = randomBytes((settings.big_value_bytes * 3) / 4).toString('base64')
    await withClient(async (client) => {
      const { rows } = await client.query('select length($1::text), $1::text as v', [value])
      assert.equal(rows[0].length, settings.big_value_bytes)
      assert.ok(rows[0].v === value)
    })
  },

  // `pg.Pool`: what most programs use.
  async pool() {
    const pool = new Pool(options({ max: 4 }))
    const found = await Promise.all(range(40).map((n) => pool.query('select $1::int as n', [n])))
    assert.deepEqual(found.map(({ rows }) => rows[0].n), range(40))
    await pool.end()
  },
  // Portals that the server keeps between Execute and Execute, outside and inside a transaction.
  async cursors() {
    const sql = 'select i from generate_series(1, $1::int) as i'
    const numbers = (rows) => rows.map(({ i }) => i)
    await withClient(async (client) => {
      const whole = client.query(new Cursor(sql, [250]))
      const sizes = []
      for (let rows = await whole.read(100); rows.length > 0; rows = await whole.read(100)) sizes.push(rows.length)
      assert.deepEqual(sizes, [100, 100, 50])
      await client.query('begin')
      const left = client.query(new Cursor(sql, [250]))
      assert.deepEqual(numbers(await left.read(10)), range(10, 1))
      await left.close()
      const failing = client.query(new Cursor('select 1 / (3 - i) from generate_series(1, 5) as i'))
      assert.equal((await failing.read(2)).length, 2)
      await rejects(failing.read(2), '22012')
      await client.query('rollback')
      assert.deepEqual((await client.query('select 1 as one')).rows, [{ one: 1 }])
    })
  },

  async listen() {
    const channel = `c_${settings.table}`
    await withClient(async (listener) => {
      const received = []
      let complete
      const all = new Promise((resolve) => (complete = resolve))
      listener.on('notification', ({ channel, payload }) => {
        received.push([channel, payload])
        if (payload === 'last') complete()
      })
      await listener.query(`listen ${channel}`)
      await withClient(async (notifier) => {
        await notifier.query('begin')
        await notifier.query('select pg_notify($1, $2)', [channel, 'rolled back'])
        await notifier.query('rollback')
        for (const number of range(20)) await notifier.query('select pg_notify($1, $2)', [channel, `${number}`])
        await listener.query('select 1')
        await notifier.query(`notify ${channel}, 'last'`)
      })
      await all
      assert.deepEqual(received, [...range(20), 'last'].map((payload) => [channel, `${payload}`]))
      await listener.query('unlisten *')
    })
  },

  // Of the login, of the session and of a transaction; two clients that differ.
  async session_settings() {
    const shown = async (client, name) => (await client.query(`show ${name}`)).rows[0][name]
    const login = { statement_timeout: 61000, application_name: 'one', options: '-c work_mem=3MB' }
    await withClient(async (one) => {
      await withClient(async (other) => {
        await one.query("set timezone = 'Asia/Tokyo'")
        await other.query("set timezone = 'Europe/Oslo'")
        await other.query("set application_name = 'other'")
        for (const _ of range(3)) {
          assert.equal(await shown(one, 'TimeZone'), 'Asia/Tokyo')
          assert.equal(await shown(one, 'application_name'), 'one')
          assert.equal(await shown(one, 'statement_timeout'), '61s')
          assert.equal(await shown(one, 'work_mem'), '3MB')
          assert.equal(await shown(other, 'TimeZone'), 'Europe/Oslo')
          assert.equal(await shown(other, 'application_name'), 'other')
          assert.equal(await shown(other, 'statement_timeout'), '0')
        }
        await one.query('begin')
        await one.query("set local work_mem = '5MB'")
        assert.equal(await shown(one, 'work_mem'), '5MB')
        await one.query('commit')
        assert.equal(await shown(one, 'work_mem'), '3MB')
      })
    }, login)
  },
}

main(actions)
