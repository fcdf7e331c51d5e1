// The page: opens the model, asks it, shows its speed, and lets this browser prove itself. It asks no other server.
import { missing, open } from './engine.js';
import { prove } from './selftest.js';

const at = (id) => document.getElementById(id);
const say = (text, bad = false) => {
  at('state').textContent = text;
  at('state').className = bad ? 'bad' : '';
};

async function begin() {
  const lacks = missing();
  if (lacks.length) throw new Error(`this browser lacks: ${lacks.join(', ')}`);
  const json = async (name) => (await fetch(name)).json();
  const [form, reference] = await Promise.all([json('input.json'), json('reference.json')]);
  at('name').textContent = reference.name;
  await offline();
  const start = performance.now();
  const model = await open(form, reference);
  const loaded = (performance.now() - start) / 1000;
  at('other').hidden = model.reads < 2;
  say(`ready: ${reference.model}, opened in ${loaded.toFixed(1)} s`);
  at('ask').onclick = () => busy(async () => {
    at('answer').textContent = '';
    const told = await model.ask([at('text').value, at('second').value].slice(0, model.reads), (text) => { at('answer').textContent = text; });
    at('answer').textContent = told.text;
    at('speed').textContent = told.speed;
  });
  at('prove').onclick = () => busy(async () => {
    const proof = await prove(model, form, reference, loaded, new URLSearchParams(location.search).get('device') ?? '');
    at('answer').textContent = [proof.passed ? 'passed' : 'FAILED', ...proof.faults.map((each) => `fault: ${each}`),
      `${proof.seconds.toFixed(1)} s`].join('\n');
    at('speed').textContent = model.told(proof.speed);
    at('proof').href = URL.createObjectURL(new Blob([JSON.stringify(proof, null, 1)], { type: 'application/json' }));
    at('proof').hidden = false;
    window.made = proof; // for programs that drive the page
  });
  at('ask').disabled = at('prove').disabled = false;
}

async function busy(work) {
  at('ask').disabled = at('prove').disabled = true;
  try {
    await work();
  } catch (error) {
    say(`${error.message ?? error}`, true);
  }
  at('ask').disabled = at('prove').disabled = false;
}

// After the first visit the service worker has every file: the page needs no network.
async function offline() {
  await navigator.serviceWorker.register('sw.js');
  await navigator.serviceWorker.ready;
}

begin().catch((error) => say(`${error.message ?? error}`, true));
