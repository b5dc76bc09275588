// Connects to NOTI as any browser's or program's socket.io-client would, and writes a JSON line for all it hears.
import { createRequire } from "node:module";

const [url, token, modules] = process.argv.slice(2);
const { io } = createRequire(modules + "/")("socket.io-client");
const say = (event, body) => console.log(JSON.stringify({ event, body }));
const socket = io(`${url}/notifications`, { auth: { token }, transports: ["websocket"], reconnection: false });
socket.onAny(say);
socket.on("connect_error", (error) => { say("connect_error", error.message); process.exit(1); });
socket.on("disconnect", (reason) => { say("disconnect", reason); process.exit(0); });
