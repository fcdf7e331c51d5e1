// What the pages do more with a script: a running run is followed, and answers come as they are written.
// Without it everything works by forms and links.
'use strict';
document.documentElement.classList.add('scripted');
const $ = (id) => document.getElementById(id);
const say = (words) => { const told = $('told'); if (told && told.textContent !== words) told.textContent = words; };

// --- a running run -------------------------------------------------------------------------------------------------
const progress = $('progress');
if (progress) {
  const look = async () => {
    try {
      const answer = await fetch(progress.dataset.progress);
      if (!answer.ok) throw new Error(answer.statusText);
      const open = progress.querySelector('details')?.open;
      const held = progress.contains(document.activeElement) && document.activeElement.tagName;
      progress.innerHTML = await answer.text();
      const details = progress.querySelector('details');
      if (details && open !== undefined) details.open = open;
      if (held) progress.querySelector(held)?.focus({ preventScroll: true });
      say(progress.querySelector('.going').textContent.trim());
      if (answer.headers.get('X-Running') !== 'yes') { location.reload(); return; }
    } catch {
      say('The page has ended: start it again.');
    }
    setTimeout(look, 2000);
  };
  setTimeout(look, 2000);
}

// --- two files in a chat box -------------------------------------------------------------------------------------------
const form = $('ask'), answers = $('answers');
if (form) {
  const ask = form.querySelector('button'), stop = $('stop'), text = $('asked'), error = $('error');
  const heads = () => Object.fromEntries(['left', 'right'].map((name) => {
    const pick = $(name), chosen = pick.selectedOptions[0];
    return [name, pick.value ? chosen.textContent.replace(/ \([^(]*\)$/, '') : ''];
  }));
  const busy = (yes) => {
    if (!yes && document.activeElement === stop) text.focus();
    ask.disabled = yes; stop.disabled = !yes;
    for (const one of answers.querySelectorAll('[data-side]')) one.setAttribute('aria-busy', yes ? 'true' : 'false');
  };
  const scroll = (side) => side.querySelector('.turn:last-child .answer')?.scrollIntoView({ block: 'nearest' });

  const show = (told) => {
    const side = $('side-' + told.side);
    if (told.html !== undefined) {
      side.innerHTML = told.html;
      if (told.state === 'waiting' || told.state === 'loading') say(told.side + ': ' + told.state);
      if (told.turns) side.parentElement.querySelector(':scope > .note')?.remove();
    } else {
      const turn = side.querySelector('.turn:last-child');
      turn.querySelector('[data-answer]').textContent = told.text;
      turn.querySelector('[data-speed]').textContent = 'at work: ' + told.tokens + ' tokens';
      scroll(side);
    }
  };
  const follow = () => {
    busy(true);
    const events = new EventSource(answers.dataset.events);
    events.onmessage = (event) => show(JSON.parse(event.data));
    const end = () => {
      events.close();
      busy(false);
      const said = [...answers.querySelectorAll('[data-side]')].map((side) => {
        const speed = side.querySelector('.turn:last-child [data-speed]');
        return speed ? side.dataset.side + ': ' + speed.textContent.trim() : '';
      });
      say(said.filter(Boolean).join('. '));
    };
    events.addEventListener('end', end);
    events.onerror = () => { end(); error.textContent = 'The page has ended: start it again.'; };
  };
  const post = (address) => fetch(address, {
    method: 'POST', body: new URLSearchParams(new FormData(form)), headers: { Accept: 'application/json' },
  });
  form.addEventListener('submit', async (event) => {
    const address = event.submitter?.getAttribute('formaction') ?? '/try';
    if (address === '/try/new') return;  // a new page is what is wanted
    event.preventDefault();
    error.textContent = '';
    try {
      if (address === '/try/stop') { await post(address); return; }
      if (ask.disabled) return;
      const answer = await post(address);
      if (!answer.ok) {
        error.textContent = answer.status === 409 ? (await answer.json()).error : await answer.text();
        return;
      }
      for (const [name, head] of Object.entries(heads())) {
        $(name + '-head').textContent = name[0].toUpperCase() + name.slice(1) + (head ? ': ' + head : '');
      }
      text.value = '';
      text.focus();
      follow();
    } catch {
      error.textContent = 'The page has ended: start it again.';
    }
  });
  text.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit(ask);
    if (event.key === 'Escape' && !stop.disabled) form.requestSubmit(stop);
  });
  busy(false);
  if (answers.dataset.busy === 'yes') follow();
}
