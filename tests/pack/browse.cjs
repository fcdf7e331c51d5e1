// Opens a pack in Chromium: node browse.cjs PLAYWRIGHT CHROMIUM ADDRESS WITHOUT. Prints what it found as JSON.
const [playwright, executablePath, address, without] = process.argv.slice(2);
const { chromium } = require(playwright);

(async () => {
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  const context = await browser.newContext();
  const asked = [];
  context.on('request', (request) => asked.push(request.url()));
  const page = await context.newPage();
  const state = async () => {
    await page.waitForFunction(() => /ready|lacks|Error/.test(document.getElementById('state').textContent) ||
      document.getElementById('state').className === 'bad', null, { timeout: 300000 });
    return page.textContent('#state');
  };
  const answer = async () => {
    await page.fill('#text', 'a good film');
    if (await page.isVisible('#second')) await page.fill('#second', 'a bad film');
    await page.click('#ask');
    await page.waitForFunction(() => !document.getElementById('ask').disabled, null, { timeout: 300000 });
    return { text: await page.textContent('#answer'), speed: await page.textContent('#speed'), state: await page.textContent('#state') };
  };
  if (without) {
    await page.addInitScript(without);
    await page.goto(address);
    console.log(JSON.stringify({ state: await state() }));
    return browser.close();
  }
  await page.goto(address);
  const opened = await state();
  if (!opened.startsWith('ready')) throw new Error(opened);
  const found = { state: opened, online: await answer() };
  await page.click('#prove');
  await page.waitForFunction(() => window.made || document.getElementById('state').className === 'bad', null, { timeout: 300000 });
  found.proof = await page.evaluate(() => window.made ?? null);
  found.failed = await page.textContent('#state');
  await context.setOffline(true);
  await page.reload();
  found.offline_state = await state();
  found.offline = await answer();
  found.asked = [...new Set(asked.filter((url) => /^https?:/.test(url)).map((url) => new URL(url).origin))];
  console.log(JSON.stringify(found));
  await browser.close();
})().catch((error) => { console.error(error); process.exit(1); });
