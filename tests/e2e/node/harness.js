// One action of tests/support/actions.py per process, for whichever driver:
//
//     node DRIVER.js ACTION < settings.json
//
// A rejected promise or a failed assertion ends the process with status 1 and a stack trace. On "cancel", the line
// "run" on standard output asks whoever started it to say, by closing standard input, that the query is running.

'use strict'

const fs = require('node:fs')

// Where to connect and what to use, filled before the action begins.
const settings = {}

const range = (length, start = 0) => Array.from({ length }, (_, place) => start + place)

const untilRunning = async () => {
  fs.writeSync(1, 'run\n')
  await settings.is_running
}

const run = async (actions) => {
  const input = process.stdin[Symbol.asyncIterator]()
  Object.assign(settings, JSON.parse((await input.next()).value.toString()), { is_running: input.next() })
  await actions[process.argv[2]]()
  process.stdin.destroy()
}

module.exports = {
  settings,
  range,
  untilRunning,
  main: (actions) =>
    run(actions).catch((error) => {
      console.error(error)
      process.exit(1)
    }),
}
