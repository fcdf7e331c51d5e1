// An ONNX encoder in onnxruntime-web's WebAssembly build, on one thread, as the reference was computed.
import { framed, lacking } from './browser.js';
import * as ort from './ort.js';
import { sha256, unpacked } from './selftest.js';
import { Tokenizer } from './tokenizers.js';

const MOST_S = 3; // seconds that speed is measured for

export const missing = () => lacking(['WebAssembly SIMD']);

export async function open(form, reference) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL('ort.wasm', location).href };
  ort.env.logLevel = 'fatal';
  const tokenizer = new Tokenizer(await (await fetch('tokenizer.json')).json(), {});
  const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
  const beside = reference.opened.filter((name) => name.endsWith('.data'));
  const externalData = await Promise.all(beside.map(async (path) => ({ path, data: await bytes(path) })));
  const session = await ort.InferenceSession.create(await bytes('model.onnx'), { externalData });
  return new Encoder(session, tokenizer, form, reference);
}

class Encoder {
  constructor(session, tokenizer, form, reference) {
    Object.assign(this, { session, tokenizer, form, reads: form.pair == null ? 1 : 2, versions: reference.runtime });
  }

  bare(text) {
    return this.tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  // Token ids of a text, or of two, and the segment of each; cut as predict.py cuts them.
  encode(texts) {
    if (this.reads === 2) return this.pair(...texts.map((text) => this.bare(text)));
    const { frame, head, tail, max_length: most } = this.form;
    let ids = [...head, ...this.bare(framed(texts[0], frame)), ...tail];
    if (most !== null && ids.length > most) ids = [...ids.slice(0, most - tail.length), ...tail];
    return { ids, types: ids.map(() => 0) };
  }

  // The longer text is cut first.
  pair(one, two) {
    const { pair_frame: frame, max_length: most } = this.form;
    const room = (most ?? Infinity) - frame.before.length - frame.between.length - frame.after.length;
    if (one.length + two.length > room) {
      const short = Math.min(one.length, two.length, Math.floor(room / 2));
      const keep = one.length <= two.length ? [short, room - short] : [room - short, short];
      one = one.slice(0, keep[0]);
      two = two.slice(0, keep[1]);
    }
    const parts = [frame.before, one, frame.between, two, frame.after];
    return { ids: parts.flat(), types: parts.flatMap((part, index) => part.map(() => frame.types[index])) };
  }

  // A score for each label, or the numbers of a vector.
  async scores({ ids, types }) {
    const tensor = (values) => new ort.Tensor('int64', BigInt64Array.from(values, BigInt), [1, ids.length]);
    const known = { input_ids: ids, attention_mask: ids.map(() => 1), token_type_ids: types };
    const feed = Object.fromEntries(this.session.inputNames.map((name) => [name, tensor(known[name])]));
    return [...(await this.session.run(feed))[this.session.outputNames[0]].data];
  }

  async ask(texts) {
    const start = performance.now();
    const scores = await this.scores(this.encode(texts));
    const spent = performance.now() - start;
    return { text: this.words(scores), speed: `${spent.toFixed(1)} ms` };
  }

  words(scores) {
    const { kind, labels } = this.form;
    if (kind === 'regressor') return `${Number(scores[0].toPrecision(6))}`;
    if (kind === 'embedder') return JSON.stringify(scores.map((value) => Number(value.toFixed(6))));
    const limits = this.form.thresholds ?? labels.map(() => this.form.threshold);
    const shares = kind === 'classifier' ? logSoftmax(scores).map(Math.exp) : scores.map((value) => 1 / (1 + Math.exp(-value)));
    return labels.map((name, index) => [name, shares[index], limits[index]])
      .filter(([, share, limit]) => kind === 'classifier' || share > limit)
      .sort((a, b) => b[1] - a[1])
      .map(([name, share]) => `${name.split(/\s+/).join(' ')}\t${share.toFixed(4)}`).join('\n');
  }

  // Its tokens of texts and prompts, and what it says of the reference's own tokens.
  async look(reference) {
    const different = [], prompted = [], found = [];
    for (const [text, known] of reference.tokenizer) {
      if ((await sha256(new TextEncoder().encode(`[${this.bare(text).join(', ')}]`))).slice(0, 12) !== known) different.push(text);
    }
    const ids = new Uint32Array(unpacked(reference.ids)), width = reference.outcomes;
    for (const probe of reference.probes) {
      const own = this.encode(probe.texts);
      const types = own.types.some((type) => type) ? own.types : [];
      if (!same(own.ids, probe.ids) || !same(types, probe.types)) prompted.push(probe.texts[0]);
      const given = { ids: probe.ids, types: probe.types.length ? probe.types : probe.ids.map(() => 0) };
      for (const row of outcomes(await this.scores(given), this.form.kind)) {
        const at = found.length;
        for (let k = 0; k < width; k++) found.push(row[ids[at + k]]);
      }
    }
    return {
      rows: Array.from({ length: found.length / width }, (_, index) => index), found, same: reference.probes.length - prompted.length,
      tokens: { texts: reference.tokenizer.length, different, prompts: reference.probes.length, different_prompts: prompted },
    };
  }

  async speed(reference) {
    const longest = reference.probes.reduce((a, b) => (b.ids.length > a.ids.length ? b : a));
    const given = { ids: longest.ids, types: longest.types.length ? longest.types : longest.ids.map(() => 0) };
    const begun = performance.now(), each = [];
    while (!each.length || (performance.now() - begun < MOST_S * 1000 && each.length < 20)) {
      const start = performance.now();
      await this.scores(given);
      each.push((performance.now() - start) / 1000);
    }
    each.sort((a, b) => a - b);
    return { prefill_tps: null, decode_tps: null, texts_per_s: 1 / each[Math.floor(each.length / 2)] };
  }

  told(speed) {
    return `${speed.texts_per_s.toFixed(1)} texts/s`;
  }
}

// As selftest.py's `outputs`: log-probabilities [positions, outcomes], or of a vector its numbers.
function outcomes(scores, kind) {
  if (kind === 'regressor' || kind === 'embedder') return [scores];
  if (kind !== 'multi-label') return [logSoftmax(scores)];
  return scores.map((score) => [-softplus(-score), -softplus(score)]);
}

const softplus = (value) => Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value)));
const same = (a, b) => a.length === b.length && a.every((value, index) => value === b[index]);

function logSoftmax(scores) {
  const most = Math.max(...scores);
  const total = Math.log(scores.reduce((sum, score) => sum + Math.exp(score - most), 0));
  return scores.map((score) => score - most - total);
}
