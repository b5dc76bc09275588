// The peer of bench/ingest.py: npm's socket.io server with the least that a controller must do with telemetry.
const http = require('http');
const { Server } = require(process.env.SOCKET_IO);

const server = http.createServer((_request, response) => response.end('ok'));
const io = new Server(server, { pingInterval: 3000, pingTimeout: 3000 });
const latest = new Map();
io.of('/ws/node')
  .use((socket, next) => (socket.handshake.auth.token ? next() : next(new Error('TOKEN_MISSING'))))
  .on('connection', (socket) => {
    socket.on('node.register', (_message, acknowledge) => acknowledge());
    socket.on('telemetry.metrics', (message, acknowledge) => {
      latest.set(socket.id, message.data.gpuDevices);
      acknowledge();
    });
    socket.on('disconnect', () => latest.delete(socket.id));
  });
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => console.log(server.address().port));
