// What a pack needs of a browser, whichever model it runs.
const FEATURES = {
  'WebAssembly SIMD': [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15,
    253, 98, 11],
  'WebAssembly exception handling': [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 8, 1, 6, 0, 6, 64,
    25, 11, 11],
};

// Names of what this browser lacks, of what every pack needs and of the WebAssembly features that are named.
export function lacking(names) {
  const lacks = [];
  if (!window.isSecureContext) lacks.push('a secure page (https, or localhost)');
  else if (!navigator.serviceWorker) lacks.push('service workers');
  if (!globalThis.WebAssembly) return [...lacks, 'WebAssembly'];
  return [...lacks, ...names.filter((name) => !WebAssembly.validate(new Uint8Array(FEATURES[name])))];
}

// The text as the model was trained to read it: what stands around it in a chat, and nothing more for a plain one.
export function framed(text, { before, after, strip }) {
  return before.join('') + (strip ? text.trim() : text) + after.join('');
}
