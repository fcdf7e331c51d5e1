// The self-test of a pack in a browser: selftest.py's checks as far as a browser can make them, and the same proof.json.
const encoder = new TextEncoder();
const VALUES = ['regressor', 'embedder']; // kinds that say numbers, not probabilities

export async function prove(model, form, reference, loaded, name) {
  const begun = performance.now();
  const text = await (await fetch('reference.json')).text();
  const different = [];
  for (const [file, known] of Object.entries(reference.files)) {
    const reply = await fetch(file);
    if (!reply.ok || await sha256(await reply.arrayBuffer()) !== known) different.push(file);
  }
  const looked = await model.look(reference);
  const checks = {
    files: { count: Object.keys(reference.files).length, different },
    tokens: looked.tokens,
    cache: null,
    fidelity: compare(reference, looked.rows, looked.found),
    opened: '',
  };
  const faults = faultsOf(checks);
  const document = {
    schema_version: 1,
    reference_sha256: await sha256(encoder.encode(text)),
    model: reference.model,
    target: reference.target,
    created: new Date().toISOString().replace(/\.\d+Z$/, 'Z'),
    passed: faults.length === 0,
    faults,
    checks,
    speed: { ...await model.speed(reference), load_s: loaded },
    threads: 1,
    peak_rss_bytes: null,
    seconds: (performance.now() - begun) / 1000,
    device: {
      name: name || navigator.userAgent.slice(0, 200), cpu: navigator.userAgent, cores: navigator.hardwareConcurrency ?? null,
      os: navigator.platform ?? '', python: '', versions: model.versions,
    },
    same_tokens: looked.same,
    rows: looked.rows,
    found: packed(looked.found),
  };
  return { ...document, digest: await sha256(encoder.encode(canonical(document))) };
}

function compare(reference, rows, found) {
  const known = new Float32Array(unpacked(reference.logprobs)), width = reference.outcomes;
  const exact = Float32Array.from(found), numbers = VALUES.includes(reference.kind);
  const divergence = numbers ? distance : kl;
  let sum = 0, most = 0, agree = 0;
  rows.forEach((position, index) => {
    const p = known.subarray(position * width, (position + 1) * width), q = exact.subarray(index * width, (index + 1) * width);
    const each = q.every(Number.isFinite) ? divergence(p, q) : Infinity;
    sum += each;
    most = Math.max(most, each);
    agree += first(p) === first(q);
  });
  const mean = rows.length ? sum / rows.length : Infinity;
  return {
    measure: numbers ? 'distance' : 'kl', mean: Number.isFinite(mean) ? mean : null, max: Number.isFinite(most) ? most : null,
    top1: numbers ? null : rows.length ? agree / rows.length : 0, positions: rows.length, of: known.length / width,
    tolerance: reference.tolerance, passed: mean <= reference.tolerance,
  };
}

// Of k outcomes, and the rest as one.
function kl(p, q) {
  let inside = 0, restP = 1, restQ = 1;
  for (let k = 0; k < p.length; k++) {
    inside += Math.exp(p[k]) * (p[k] - q[k]);
    restP -= Math.exp(p[k]);
    restQ -= Math.exp(q[k]);
  }
  const rest = restP > 1e-9 ? restP * (Math.log(Math.max(restP, 1e-12)) - Math.log(Math.max(restQ, 1e-12))) : 0;
  return Math.max(inside + rest, 0);
}

// Squared distance, in squares of the reference's length.
function distance(p, q) {
  const size = p.reduce((sum, value) => sum + value * value, 0);
  return p.reduce((sum, value, k) => sum + (value - q[k]) ** 2, 0) / Math.max(size, 1e-12);
}

const first = (values) => values.reduce((best, value, index) => (value > values[best] ? index : best), 0);

// In the words of selftest.py: `report --add` writes them again and compares.
export function faultsOf({ files, tokens, fidelity, opened }) {
  const found = files.different.map((name) => `${name} is missing, or another file`);
  if (tokens.different.length) {
    found.push(`the tokenizer reads ${tokens.different.length} of ${tokens.texts} texts in other tokens`);
  }
  if (tokens.different_prompts.length) {
    found.push(`${tokens.different_prompts.length} of ${tokens.prompts} prompts are other tokens (template)`);
  }
  if (!fidelity.passed) found.push(`it computes otherwise: ${fidelity.measure} above what rounding explains`);
  return opened ? [...found, opened] : found;
}

// As selftest.py's `canonical`: numbers as the bytes of a double, keys in order, no blanks.
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value === 'number') {
    const bytes = new DataView(new ArrayBuffer(8));
    bytes.setFloat64(0, value);
    return hex(bytes.buffer);
  }
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((name) => `${canonical(name)}:${canonical(value[name])}`).join(',')}}`;
}

const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
export const sha256 = async (bytes) => hex(await crypto.subtle.digest('SHA-256', bytes));
export const unpacked = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0)).buffer;
const packed = (values) => btoa(String.fromCharCode(...new Uint8Array(Float32Array.from(values).buffer)));
