// Keeps every file of the pack, so that it works without a network. A pack of another content is another cache.
const REFERENCE = 'reference.json';

self.addEventListener('install', (event) => event.waitUntil(keep().then(() => self.skipWaiting())));
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  if (event.request.method === 'GET' && new URL(event.request.url).origin === self.location.origin) {
    event.respondWith(answer(event.request));
  }
});

async function keep() {
  const reply = await fetch(REFERENCE, { cache: 'reload' });
  const text = await reply.text();
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  const name = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const cache = await caches.open(name);
  const files = Object.keys(JSON.parse(text).files);
  await cache.addAll(['./', REFERENCE, ...files].map((file) => new Request(file, { cache: 'reload' })));
  for (const old of await caches.keys()) if (old !== name) await caches.delete(old);
}

async function answer(request) {
  return (await caches.match(request, { ignoreSearch: true })) ?? fetch(request);
}
