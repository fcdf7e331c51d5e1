// Uses the page over runs by the keyboard alone: node browse.cjs PLAYWRIGHT CHROMIUM ADDRESS. Prints what it found as JSON.
const [playwright, executablePath, address] = process.argv.slice(2);
const { chromium } = require(playwright);

(async () => {
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
  const asked = [], faults = [];
  context.on('request', (request) => asked.push(request.url()));
  const page = await context.newPage();
  page.setDefaultTimeout(120000);
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (line) => { if (line.type() === 'error') faults.push(line.text()); });
  const found = { pages: {} };

  const here = () => page.evaluate(() => {
    const one = document.activeElement;
    const label = one.labels?.[0]?.textContent ?? one.getAttribute('aria-label') ?? one.textContent;
    return { id: one.id, name: one.getAttribute('name') ?? '', words: label.trim(), outlined: getComputedStyle(one).outlineStyle !== 'none' };
  });
  // Tab until an element is reached; what has the focus must be seen to have it.
  const tab = async (wanted, most = 80) => {
    for (let n = 0; n < most; n++) {
      await page.keyboard.press('Tab');
      const one = await here();
      if (!one.outlined) faults.push('focus is not seen: ' + JSON.stringify(one));
      if (wanted(one)) return one;
    }
    throw new Error('not reached by Tab: ' + wanted);
  };
  // What a screen reader needs: names of everything that takes the focus, landmarks, headings, headers of tables, contrast.
  const look = async (name) => {
    found.pages[name] = await page.evaluate(() => {
      const wrong = [], ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
      if (new Set(ids).size !== ids.length) wrong.push('an id twice: ' + ids.filter((id, n) => ids.indexOf(id) !== n));
      for (const [selector, count] of [['main', 1], ['h1', 1], ['html[lang]', 1], ['a.skip', 1], ['nav[aria-label]', null]]) {
        const there = document.querySelectorAll(selector).length;
        if (count === null ? !there : there !== count) wrong.push(`${there} of ${selector}`);
      }
      for (const one of document.querySelectorAll('input, select, textarea, button, a[href], summary, progress')) {
        const label = (one.labels?.[0]?.textContent ?? one.getAttribute('aria-label') ?? one.textContent).trim();
        if (!label) wrong.push('no name: ' + one.outerHTML.slice(0, 120));
      }
      for (const one of document.querySelectorAll('th')) if (!one.scope) wrong.push('no scope: ' + one.outerHTML);
      for (const one of document.querySelectorAll('[aria-labelledby], [aria-describedby]')) {
        const id = one.getAttribute('aria-labelledby') ?? one.getAttribute('aria-describedby');
        if (!document.getElementById(id)) wrong.push('nothing is called ' + id);
      }
      let last = 0;
      for (const one of document.querySelectorAll('h1, h2, h3, h4')) {
        const level = Number(one.tagName[1]);
        if (level > last + 1) wrong.push('a heading too deep: ' + one.textContent);
        last = level;
      }
      const light = (colour) => {
        const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = (one) => {
        for (let at = one; at; at = at.parentElement) {
          const colour = getComputedStyle(at).backgroundColor;
          if (!/, 0\)$|transparent/.test(colour)) return colour;
        }
        return 'rgb(255, 255, 255)';
      };
      for (const one of document.querySelectorAll('p, a, th, td, label, small, h1, h2, button, summary, span, dt, dd, legend')) {
        if (!one.textContent.trim() || one.closest('.hidden, .skip, svg, :disabled') || !one.getClientRects().length) continue;
        const [a, b] = [light(getComputedStyle(one).color), light(paper(one))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(1)}: ${one.className} ${one.textContent.trim().slice(0, 40)}`);
      }
      const root = document.documentElement;
      if (root.scrollWidth > root.clientWidth) wrong.push('the page scrolls sideways');
      return [...new Set(wrong)];
    });
  };
  const enter = async (key = 'Enter') => { await Promise.all([page.waitForLoadState('load'), page.waitForNavigation(), page.keyboard.press(key)]); };

  // Filter.
  await page.goto(address);
  await look('runs');
  await page.keyboard.press('Tab');
  found.first = (await here()).words;
  await tab((one) => one.id === 'text');
  await page.keyboard.type('group');
  await enter();
  found.filtered = await page.$$eval('tbody tr th', (cells) => cells.map((cell) => cell.querySelector('a').textContent));
  found.count = (await page.textContent('[role=status]')).trim();
  await tab((one) => one.words === 'Show all');
  await enter();

  // Compare.
  for (const name of ['Compare quickstart', 'Compare smaller']) {
    await tab((one) => one.words === name);
    await page.keyboard.press('Space');
  }
  await tab((one) => one.words === 'Compare the ticked runs');
  await enter();
  found.compared = await page.textContent('h1');
  await look('compare');

  // Follow the run at work.
  await page.goto(address);
  await tab((one) => one.words === 'live');
  await enter();
  await look('live');
  found.told = await page.textContent('#told');
  await page.waitForResponse((answer) => answer.url().endsWith('/progress'));

  // Chat.
  await page.goto(address);
  await tab((one) => one.words === 'quickstart');
  await enter();
  await look('run');
  await tab((one) => one.words === 'The smallest beside the largest');
  await enter();
  await look('try');
  await tab((one) => one.id === 'asked');
  await page.keyboard.type('a good film');
  await page.keyboard.press('Control+Enter');
  const ended = () => page.waitForFunction((turns) => document.querySelectorAll('.turn').length >= turns &&
    !document.querySelector('#ask button').disabled, turns, { timeout: 300000 });
  let turns = 2;
  await ended();
  const sides = () => page.$$eval('[data-side]', (all) => all.map((side) => ({
    text: side.querySelector('.turn:last-child .answer')?.textContent ?? side.querySelector('.turn:last-child table')?.textContent,
    speed: side.querySelector('.turn:last-child [data-speed]').textContent.trim(), busy: side.getAttribute('aria-busy'),
    live: side.getAttribute('aria-live') })));
  found.sides = await sides();
  found.told_at_the_end = await page.textContent('#told');
  found.focus = (await here()).id;
  await look('answered');

  // A long answer is stopped by Escape.
  await tab((one) => one.words === 'Second text and settings');
  await page.keyboard.press('Enter');
  await tab((one) => one.id === 'max_tokens');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('8000');
  await page.keyboard.press('Shift+Tab'); await page.keyboard.press('Shift+Tab'); await page.keyboard.press('Shift+Tab');
  found.back = (await here()).id;
  await page.keyboard.type('and more');
  await page.keyboard.press('Control+Enter');
  await page.waitForFunction(() => [...document.querySelectorAll('.turn:last-child [data-speed]')].some((one) => /at work: \d/.test(one.textContent)));
  found.answers_meanwhile = (await page.request.get(address)).status();
  await page.keyboard.press('Escape');
  turns = 4;
  await ended();
  found.stopped = (await sides()).map((side) => side.speed);

  // Without a script: the same by forms alone.
  const plain = await (await browser.newContext({ javaScriptEnabled: false })).newPage();
  plain.setDefaultTimeout(120000);
  await plain.goto(address + 'try');
  await plain.click('text=Second text and settings');
  await plain.fill('#max_tokens', '4');
  await plain.fill('#asked', 'once more');
  await plain.click('#ask button');
  found.plain_address = plain.url();
  const done = () => plain.$('[data-side=right] .turn.done:last-child');
  for (let n = 0; n < 60 && !await done(); n++) { await plain.waitForTimeout(1000); await plain.goto(address + 'try'); }
  found.plain = (await plain.textContent('[data-side=right] .turn:last-child')).replace(/\s+/g, ' ');

  // Dark, and on a phone.
  for (const [name, options] of [['dark', { colorScheme: 'dark' }], ['phone', { viewport: { width: 390, height: 800 } }]]) {
    const other = await (await browser.newContext(options)).newPage();
    for (const place of ['', 'try', 'compare']) {
      await other.goto(address + place);
      const wide = await other.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (wide > 0) faults.push(`${name} ${place}: ${wide} pixels too wide`);
    }
  }
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.goto(address);
  await look('runs, dark');
  await page.click('main >> text=quickstart');
  await look('run, dark');
  await page.goto(address + 'try');
  await look('try, dark');
  found.asked = [...new Set(asked.map((url) => new URL(url).origin))];
  found.faults = faults;
  console.log(JSON.stringify(found));
  await browser.close();
})().catch((error) => { console.error(error); process.exit(1); });
