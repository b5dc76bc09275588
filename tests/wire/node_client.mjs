// Plays a node as a worker built on npm's socket.io-client would: every event it hears is a JSON line on standard
// output, and every JSON line [event, body] on standard input is emitted. An end of input closes the connection.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [url, options, modules] = process.argv.slice(2);
const { io } = createRequire(modules + "/")("socket.io-client");
const say = (event, body) => console.log(JSON.stringify({ event, body }));
const socket = io(`${url}/ws/node`, { reconnection: true, forceNew: true, ...JSON.parse(options) });

socket.onAny(say);
const { engine } = socket.io;
engine.on("open", () => say("transport", engine.transport.name));
engine.on("upgrade", (transport) => say("transport", transport.name));
socket.on("disconnect", (reason) => say("disconnect", reason));
socket.on("connect_error", (error) => say("connect_error", { message: error.message, data: error.data }));

createInterface({ input: process.stdin })
  .on("line", (line) => socket.emit(...JSON.parse(line)))
  .on("close", () => { socket.disconnect(); process.exit(0); });
