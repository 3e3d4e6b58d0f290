// Opens a report in headless Chromium and prints what a user would meet, as JSON; `tests/report.rs` compares it.
//
//     node browser.mjs MODULES CHROMIUM PAGE check WORD THRESHOLD...
//     node browser.mjs MODULES CHROMIUM PAGE shots FOLDER
//
// MODULES is a folder with node_modules of puppeteer-core and axe-core, which scripts/test_services.py installs.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, chromium, file, mode, ...rest] = process.argv.slice(2);
const require = createRequire(join(modules, "package.json"));
const puppeteer = require("puppeteer-core");
const WIDTHS = [400, 1600];
const SCHEMES = ["light", "dark"];

const launch = puppeteer.launch ?? puppeteer.default.launch;
const browser = await launch.call(puppeteer.default ?? puppeteer, {
  executablePath: chromium,
  headless: true,
  // Containers have no namespaces for the sandbox; the page is a file of ours.
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"],
});
const url = pathToFileURL(file).href;

const open = async ({ width = 1600, height = 1000, scheme = "light", script = true, scale = 1 } = {}) => {
  const page = await browser.newPage();
  const met = { console: [], requests: [] };
  page.on("console", (message) => met.console.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => met.console.push(`error: ${error.message}`));
  page.on("request", (request) => {
    const to = request.url();
    if (to.split("#")[0] !== url && !to.startsWith("data:")) met.requests.push(to);
  });
  await page.setJavaScriptEnabled(script);
  await page.setViewport({ width, height, deviceScaleFactor: scale });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(url, { waitUntil: "load" });
  return { page, met };
};

const look = async () => {
  const views = [];
  const source = require("axe-core").source;
  for (const width of WIDTHS) {
    for (const scheme of SCHEMES) {
      const { page, met } = await open({ width, scheme });
      // Closed parts are looked at too.
      await page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      await page.evaluate(source);
      const { violations, passes } = await page.evaluate(async () => {
        const { violations, passes } = await globalThis.axe.run(document);
        const described = violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.slice(0, 5).map((node) => `${node.html} ${node.failureSummary}`).join("; ")}`);
        return { violations: described, passes: passes.length };
      });
      const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      views.push({ width, scheme, overflow, violations, passes, background, ...met });
      await page.close();
    }
  }
  return views;
};

const check = async (word, thresholds) => {
  const views = await look();
  const { page, met } = await open();
  const text = (id) => page.$eval(`#${id}`, (element) => element.textContent);
  const state = async () => ({
    value: await page.$eval("#threshold-range", (range) => range.value),
    spoken: await page.$eval("#threshold-range", (range) => range.getAttribute("aria-valuetext")),
    share: await text("kept-share"), count: await text("kept-count"), command: await text("command"),
    above: await page.$$eval("#above .card", (cards) => cards.length), below: await page.$$eval("#below .card", (cards) => cards.length),
    // The figure right before the slider.
    figure: await page.$eval("#threshold-range", (range) => range.closest(".slider").previousElementSibling.querySelector("line.cut")?.id ?? null),
    cuts: await page.$$eval("line.cut", (lines) => Object.fromEntries(lines.map((line) => [line.id, line.getAttribute("x1")]))),
  });
  // By keyboard alone: from the top of the page to the slider.
  let tabs = 0;
  do {
    await page.keyboard.press("Tab");
    tabs += 1;
  } while (tabs < 60 && (await page.evaluate(() => document.activeElement.id)) !== "threshold-range");
  const before = await state();
  for (let i = 0; i < 20; i++) await page.keyboard.press("ArrowRight");
  const after = await state();
  const reached = [];
  for (let i = 0; i < 12; i++) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.tagName));
  }
  const type = async (threshold) => {
    await page.$eval("#threshold-number", (input) => { input.value = ""; });
    await page.focus("#threshold-number");
    await page.keyboard.type(threshold);
    return { threshold, ...(await state()) };
  };
  const typed = [];
  for (const threshold of thresholds) typed.push(await type(threshold));
  await page.select("#by", "itm");
  const matching = await type("0.5");
  await page.select("#by", "org_itm");
  const originalsMatching = await state();
  await page.select("#by", "org_similarity");
  const originals = await state();
  await page.select("#by", "similarity");
  // The itm of the first cards, in both orders.
  const byMatching = async (order) => {
    await page.select("#order", order);
    const lines = await page.$$eval("#sample .card .line-of-text", (all) => all.map((line) => [...line.children].map((part) => part.textContent)));
    await page.select("#order", "");
    return lines.filter(([what]) => what === "itm").map(([, , score]) => Number(score));
  };
  const matched = await byMatching("match"), mismatched = await byMatching("mismatch");
  const cards = () => page.$$eval("#sample .card", (all) => all.map((card) => card.innerText));
  const all = { shown: await text("shown"), cards: (await cards()).length };
  await page.focus("#word");
  await page.keyboard.type(word);
  const filtered = { shown: await text("shown"), cards: await cards() };
  await page.$eval("#word", (input) => { input.value = ""; input.dispatchEvent(new Event("input")); });
  await page.focus("#least");
  await page.keyboard.type("0.2");
  const scored = { shown: await text("shown"), cards: await cards() };
  await page.$eval("#least", (input) => { input.value = ""; input.dispatchEvent(new Event("input")); });
  const reasons = {};
  for (const option of await page.$$eval("#kind option", (options) => options.map((option) => option.value))) {
    await page.select("#kind", option);
    reasons[option] = await text("shown");
  }
  const images = await page.$$eval("img", (all) => all.map((image) => image.complete && image.naturalWidth > 0));
  const elements = await page.$$eval("script, iframe, object, embed, form, base", (all) => all.map((one) => `${one.tagName} ${one.id} ${one.type ?? ""}`));
  await page.close();
  const plain = await open({ script: false });
  const still = await plain.page.evaluate(() => 0).catch(() => null);
  const noScript = still === null ? null : await plain.page.evaluate(() => ({
    totals: document.querySelector("#totals").innerText, rows: document.querySelectorAll("table tr").length,
    hidden: [...document.querySelectorAll("[data-script]")].every((one) => one.hidden),
  }));
  return { views, met, tabs, before, after, reached, typed, originals, matching, originalsMatching, matched, mismatched, all, filtered, scored, reasons, images, elements, noScript };
};

const shots = async (folder) => {
  const made = [];
  const shoot = async (name, options, selector, height) => {
    const { page } = await open(options);
    if (selector) await page.$eval(selector, (element) => element.scrollIntoView({ behavior: "instant" }));
    const path = join(folder, `${name}.png`);
    await page.screenshot({ path, ...(height ? { clip: { x: 0, y: await page.evaluate(() => scrollY), width: options.width, height } } : {}) });
    await page.close();
    made.push(path);
  };
  await shoot("report-threshold", { width: 1200, height: 1050 }, "#threshold");
  await shoot("report-sample", { width: 1200, height: 900, scheme: "dark" }, "#samples");
  await shoot("report-captions", { width: 1200, height: 1000 }, "#texts");
  await shoot("report-narrow", { width: 400, height: 860 }, null);
  return made;
};

try {
  const result = mode === "check" ? await check(rest[0], rest.slice(1)) : await shots(rest[0]);
  process.stdout.write(`${JSON.stringify(result, null, 1)}\n`);
} finally {
  await browser.close();
}
