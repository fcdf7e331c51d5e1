// A GGUF decoder in llama.cpp's WebAssembly build (wllama), on one thread, without a GPU: as the reference was computed.
import { framed, lacking } from './browser.js';
import { unpacked } from './selftest.js';
import { Wllama } from './wllama.js';

const TOP = 64; // outcomes asked for at each token, of which the reference knows the likeliest

export function missing() {
  const lacks = lacking(['WebAssembly SIMD', 'WebAssembly exception handling']);
  if (!globalThis.WebAssembly) return lacks;
  try {
    new WebAssembly.Memory({ address: 'i64', initial: 1n });
  } catch {
    lacks.push('WebAssembly Memory64');
  }
  if (!WebAssembly.Suspending) lacks.push('WebAssembly JSPI');
  return lacks;
}

export async function open(form, reference) {
  const llama = new Wllama({ default: new URL('wllama.wasm', location).href }, { suppressNativeLog: true });
  llama.setCompat(null); // its other build is on another server
  const file = await (await fetch('model.gguf')).blob();
  await llama.loadModel([file], { n_ctx: form.context, n_threads: 1, n_gpu_layers: 0, seed: 0 });
  return new Decoder(llama, form, reference);
}

class Decoder {
  constructor(llama, form, reference) {
    Object.assign(this, { llama, form, reference, reads: 1, versions: reference.runtime });
  }

  // What stands around the text in a chat; a BOS that llama.cpp puts there itself is left out.
  prompt(text) {
    const whole = framed(text, this.form.frame);
    const bos = this.reference.browser.bos;
    return bos && whole.startsWith(bos) ? whole.slice(bos.length) : whole;
  }

  async complete(prompt, tokens, more = {}) {
    return this.llama.createCompletion({ prompt, max_tokens: tokens, temperature: 0, top_k: 1, cache_prompt: false, ...more });
  }

  async ask([text], show) {
    const start = performance.now();
    let said = '';
    const stream = await this.complete(this.prompt(text), this.reference.browser.max_tokens, { stream: true });
    let count = 0, first = 0;
    for await (const chunk of stream) {
      said += chunk.choices[0]?.text ?? '';
      if (++count === 1) first = performance.now();
      show(said);
    }
    const rate = count > 1 ? (count - 1) / ((performance.now() - first) / 1000) : 0;
    return { text: said, speed: `${rate.toFixed(1)} tokens/s, first after ${((first - start) / 1000).toFixed(2)} s` };
  }

  // Of one probe: tokens of its prompt, and of each token that it writes the likeliest outcomes.
  async probe(probe) {
    const written = probe.ids.length - probe.prompt;
    const reply = await this.complete(this.prompt(probe.texts[0]), written, { logprobs: TOP, n_probs: TOP });
    const content = reply.choices[0].logprobs?.content ?? [];
    return {
      prompt: reply.usage.prompt_tokens,
      rows: content.map((each) => ({ id: each.id, outcomes: new Map(each.top_logprobs.map((one) => [one.id, one.logprob])) })),
    };
  }

  // Each probe's own tokens, up to the first that is another: what follows it is another text.
  async look(reference) {
    const ids = new Uint32Array(unpacked(reference.ids)), width = reference.outcomes;
    const rows = [], found = [], prompted = [];
    let at = 0, same = 0;
    for (const probe of reference.probes) {
      const wanted = probe.ids.slice(probe.prompt), all = probe.ids.length - probe.start;
      const said = await this.probe(probe);
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
    return { rows, found, same, tokens: { texts: 0, different: [], prompts: reference.probes.length, different_prompts: prompted } };
  }

  async speed(reference) {
    const probe = reference.probes.reduce((a, b) => (b.ids.length > a.ids.length ? b : a));
    const { timings } = await this.complete(this.prompt(probe.texts[0]), 32, { ignore_eos: true });
    return { prefill_tps: timings.prompt_per_second, decode_tps: timings.predicted_per_second };
  }

  told(speed) {
    return `${speed.decode_tps.toFixed(1)} tokens/s`;
  }
}
