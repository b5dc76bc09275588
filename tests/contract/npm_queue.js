// The npm side of the queue's wire test: `add URL QUEUE` or `take URL QUEUE COUNT`, one JSON line on standard output.
const { Queue, Worker } = require(process.env.AIWM_TEST_BULLMQ);
const [, , mode, url, name, count] = process.argv;
const at = new URL(url);
const connection = { host: at.hostname, port: +at.port, db: +(at.pathname.slice(1) || 0), maxRetriesPerRequest: null };

async function add() {
  const queue = new Queue(name, { connection });
  const plain = await queue.add('service.event', { event: 'service.event', data: { text: 'grüße 😀', n: [1, null] } });
  const own = await queue.add('own', { n: 2 }, { jobId: 'own-id', attempts: 3, backoff: { type: 'exponential', delay: 20 } });
  await queue.add('own', { n: 3 }, { jobId: 'own-id' });
  await queue.close();
  console.log(JSON.stringify([plain.id, own.id]));
}

async function take() {
  const got = [];
  await new Promise((done) => {
    const worker = new Worker(name, async (job) => {
      got.push({ id: job.id, name: job.name, data: job.data, attempts: job.opts.attempts, made: job.attemptsMade });
      if (job.name === 'flaky' && job.attemptsMade === 0) throw new Error('first time');
      if (got.length >= +count) setImmediate(() => worker.close().then(done));
    }, { connection });
  });
  console.log(JSON.stringify(got));
}

(mode === 'add' ? add() : take()).then(() => process.exit(0));
