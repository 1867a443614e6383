// What node-postgres and postgres.js do in tests/edge/test_crossings_node.py:
//
//     node crossings.js ACTION < settings.json
//
// Each action waits for a line of standard input between its steps, and prints one when a step is done.

'use strict'

const readline = require('node:readline')

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const step = async (body) => {
  const result = await body()
  process.stdout.write('done\n')
  await lines.next()
  return result
}

const actions = {
  async node_postgres(options, text) {
    const { Client } = require('pg')
    const client = await step(async () => {
      const connected = new Client(options)
      await connected.connect()
      return connected
    })
    await step(() => client.query('select 1'))
    await step(() => client.query(text, [1]))
    const named = { name: 'one', text, values: [1] }
    await step(() => client.query(named))
    await step(() => client.query(named))
    await step(async () => {
      await client.query('begin')
      for (let number = 0; number < 3; number++) await client.query(named)
      await client.query('commit')
    })
    await step(async () => {
      await client.query("set work_mem = '5MB'")
      await client.query(text, [1])
    })
    await client.end()
  },

  async postgres_js(options, text) {
    const postgres = require('postgres')
    const sql = postgres({ ...options, max: 1, fetch_types: false })
    await step(() => sql.unsafe(text, [1], { prepare: true }))
    await step(() => sql.unsafe(text, [1], { prepare: true }))
    await step(() => sql.unsafe('select 1'))
    await step(() =>
      sql.begin(async (within) => {
        for (let number = 0; number < 3; number++) await within.unsafe(text, [1], { prepare: true })
      }),
    )
    await step(() => sql.unsafe(text + ', 2', [1]))
    await sql.end()
  },
}

const main = async () => {
  const { action, options, text } = JSON.parse((await lines.next()).value)
  await actions[action](options, text)
  process.exit(0)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
