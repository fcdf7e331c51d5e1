// The self-test of a pack in a browser: selftest.py's checks as far as a browser can make them, and the same proof.json.
const encoder = new TextEncoder();

export async function prove(model, form, reference, loaded, name) {
  const begun = performance.now();
  const text = await (await fetch('reference.json')).text();
  const different = [];
  for (const [file, known] of Object.entries(reference.files)) {
    const reply = await fetch(file);
    if (!reply.ok || await sha256(await reply.arrayBuffer()) !== known) different.push(file);
  }
  const looked = await look(model, reference);
  const checks = {
    files: { count: Object.keys(reference.files).length, different },
    tokens: { texts: 0, different: [], prompts: looked.prompts, different_prompts: looked.prompted },
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
    speed: { ...await model.speed(), load_s: loaded },
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

// Each probe's own tokens, up to the first that is another: what follows it is another text.
async function look(model, reference) {
  const ids = new Uint32Array(unpacked(reference.ids)), width = reference.outcomes;
  const rows = [], found = [], prompted = [];
  let at = 0, same = 0;
  for (const probe of reference.probes) {
    const wanted = probe.ids.slice(probe.prompt), all = probe.ids.length - probe.start;
    const said = await model.probe(probe);
    if (said.prompt !== probe.prompt) prompted.push(probe.texts[0]);
    let equal = 0;
    for (const row of said.rows.slice(0, wanted.length)) {
      const position = at + all - wanted.length + equal;
      const least = Math.min(...row.outcomes.values());
      rows.push(position);
      for (let k = 0; k < width; k++) found.push(row.outcomes.get(ids[position * width + k]) ?? least);
      if (row.id !== wanted[equal]) break;
      equal++;
    }
    same += equal === said.rows.length;
    at += all;
  }
  return { rows, found, prompted, prompts: reference.probes.length, same };
}

function compare(reference, rows, found) {
  const known = new Float32Array(unpacked(reference.logprobs)), width = reference.outcomes;
  const exact = Float32Array.from(found);
  let sum = 0, most = 0, agree = 0;
  rows.forEach((position, index) => {
    const p = known.subarray(position * width, (position + 1) * width), q = exact.subarray(index * width, (index + 1) * width);
    let inside = 0, restP = 1, restQ = 1;
    for (let k = 0; k < width; k++) {
      inside += Math.exp(p[k]) * (p[k] - q[k]);
      restP -= Math.exp(p[k]);
      restQ -= Math.exp(q[k]);
    }
    const rest = restP > 1e-9 ? restP * (Math.log(Math.max(restP, 1e-12)) - Math.log(Math.max(restQ, 1e-12))) : 0;
    const each = q.every(Number.isFinite) ? Math.max(inside + rest, 0) : Infinity;
    sum += each;
    most = Math.max(most, each);
    agree += first(p) === first(q);
  });
  const mean = rows.length ? sum / rows.length : Infinity;
  return {
    measure: 'kl', mean: Number.isFinite(mean) ? mean : null, max: Number.isFinite(most) ? most : null,
    top1: rows.length ? agree / rows.length : 0, positions: rows.length, of: known.length / width,
    tolerance: reference.tolerance, passed: mean <= reference.tolerance,
  };
}

const first = (values) => values.reduce((best, value, index) => (value > values[best] ? index : best), 0);

// In the words of selftest.py: `report --add` writes them again and compares.
export function faultsOf({ files, tokens, fidelity, opened }) {
  const found = files.different.map((name) => `${name} is missing, or another file`);
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
const sha256 = async (bytes) => hex(await crypto.subtle.digest('SHA-256', bytes));
const unpacked = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0)).buffer;
const packed = (values) => btoa(String.fromCharCode(...new Uint8Array(Float32Array.from(values).buffer)));
