"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const STEP = 24, AROUND = 4;

  for (const element of document.querySelectorAll("[data-script]")) element.hidden = false;

  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const score = (value) => (typeof value === "number" ? value.toFixed(3) : "");
  const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");

  // A text of the dataset: its own direction, never markup.
  const quote = (name, className, text) => {
    const element = make(name, className, text);
    element.dir = "auto";
    return element;
  };
  const line = (what, text, value, chosen) => {
    const element = make("div", chosen ? "line-of-text chosen" : "line-of-text");
    if (what) element.append(make("span", "what", what));
    element.append(quote("span", "words", text), make("span", "score", score(value)));
    return element;
  };

  const image = (row) => {
    const box = make("div", "image");
    if (row.i) {
      const img = make("img");
      img.alt = `image of ${row.k}`;
      img.width = row.iw;
      img.height = row.ih;
      img.src = `data:image/jpeg;base64,${row.i}`;
      box.append(img);
    } else {
      box.append(make("p", "missing", row.m));
    }
    return box;
  };
  // Without any image, cards have no room for one, and say why in a line.
  const pictures = data.samples.some((row) => row.i);
  const candidates = (row) => {
    const details = make("details");
    details.append(make("summary", "", `${row.n.length} candidates`));
    const list = make("ol");
    for (const [text, value] of row.n) {
      const item = make("li");
      item.append(line("", text, value, false));
      list.append(item);
    }
    details.append(list);
    return details;
  };
  const card = (row, compact) => {
    const pictured = row.r === undefined && (compact ? row.i : pictures);
    const item = make("li", pictured ? "card pictured" : "card");
    if (pictured) item.append(image(row));
    const text = make("div", "text");
    if (row.r !== undefined) {
      text.append(make("p", "reason", row.r));
      if (row.d) text.append(quote("p", "quote", row.d));
    }
    if (row.c !== undefined) text.append(line(row.r === undefined ? "caption" : "caption, not kept", row.c, row.v, true));
    if (typeof row.itm === "number") text.append(line("itm", "probability that image and caption match", row.itm, false));
    if (row.o !== undefined) text.append(line("original", row.o, row.ov, false));
    if (typeof row.oitm === "number") text.append(line("org_itm", "probability that image and original caption match", row.oitm, false));
    if (!compact && row.n && row.n.length > 1) text.append(candidates(row));
    const size = row.w ? `, ${row.w} \u00d7 ${row.h}` : "";
    const missing = row.m && !pictured && !compact ? `\n${row.m}` : "";
    if (!compact) text.append(quote("p", "where", `${row.k}${size}\n${row.s}${missing}`));
    item.append(text);
    return item;
  };

  // The threshold.
  const shell = (word) => {
    const text = word.startsWith("-") ? `./${word}` : word;
    return /^[A-Za-z0-9_@%+=:,.\/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
  };
  const threshold = () => {
    const range = byId("threshold-range"), number = byId("threshold-number"), by = byId("by");
    const column = () => (by ? by.value : Object.keys(data.scores)[0]);
    const cuts = new Set(Object.values(data.scores).map((scores) => scores.cut));
    // The line that marks the threshold, and what is dropped, in the figure of this score alone.
    const mark = (name, bin) => {
      const [first, last] = data.scores[name].axis;
      for (const id of cuts) {
        const shown = id === data.scores[name].cut, x = shown ? (1000 * (bin - first)) / (last - first) : 0;
        const cut = byId(id);
        for (const end of ["x1", "x2"]) {
          if (shown) cut.setAttribute(end, x);
          else cut.removeAttribute(end);
        }
        byId(`${id}-dropped`).setAttribute("width", x);
      }
    };
    const atLeast = new Map();
    const kept = (name, bin) => {
      if (!atLeast.has(name)) {
        const { counts } = data.scores[name], sums = new Array(counts.length + 1).fill(0);
        for (let i = counts.length - 1; i >= 0; i--) sums[i] = sums[i + 1] + counts[i];
        atLeast.set(name, sums);
      }
      const sums = atLeast.get(name);
      return sums[Math.min(Math.max(bin - data.scores[name].first, 0), sums.length - 1)];
    };
    const show = () => {
      const name = column(), scores = data.scores[name], bin = Number(range.value);
      const text = ((bin - 1000) / 1000).toFixed(3), least = Math.fround(Number(text)), stay = kept(name, bin);
      range.setAttribute("aria-valuetext", text);
      if (document.activeElement !== number) number.value = text;
      const share = scores.rows ? (100 * stay) / scores.rows : 0;
      byId("kept-share").textContent = `${share.toFixed(1)} % stay`;
      const missing = scores.missing ? `; ${grouped(scores.missing)} without this score go` : "";
      byId("kept-count").textContent = `${grouped(stay)} of ${grouped(scores.rows)} captions${missing}`;
      mark(name, bin);
      if (data.output === null) {
        byId("command").textContent = `${scores.least}${text}`;
      } else {
        const to = `${data.output.replace(/\/+$/, "")}${scores.suffix}${text}`;
        byId("command").textContent = `recaption filter ${shell(data.output)} ${scores.least}${text}${scores.by} --to ${shell(to)}`;
      }
      const value = (row) => row[scores.field];
      const scored = data.samples.filter((row) => typeof value(row) === "number").sort((a, b) => value(a) - value(b));
      const above = scored.filter((row) => Math.fround(value(row)) >= least).slice(0, AROUND);
      const below = scored.filter((row) => Math.fround(value(row)) < least).slice(-AROUND).reverse();
      for (const [id, rows] of [["above", above], ["below", below]]) {
        const cards = rows.map((row) => card(row, true));
        byId(id).replaceChildren(...(cards.length ? cards : [make("li", "count", "none in the sample")]));
      }
    };
    range.addEventListener("input", show);
    number.addEventListener("input", () => {
      const value = Number(number.value);
      if (number.value === "" || !Number.isFinite(value)) return;
      range.value = Math.round(value * 1000) + 1000;
      show();
    });
    number.addEventListener("blur", show);
    const start = () => {
      const scores = data.scores[column()];
      byId(scores.cut).closest(".plot").after(range.closest(".slider"));
      [range.min, range.max] = scores.axis;
      range.value = scores.start;
      show();
    };
    if (by) by.addEventListener("change", start);
    start();
    byId("copy").addEventListener("click", async () => {
      let done = true;
      try {
        await navigator.clipboard.writeText(byId("command").textContent);
      } catch {
        const selection = window.getSelection();
        selection.selectAllChildren(byId("command"));
        done = document.execCommand("copy");
      }
      byId("copied").textContent = done ? "Copied." : "Selected; copy it with the keyboard.";
    });
  };
  if (data.scores) threshold();

  // The sample.
  const sample = () => {
    const word = byId("word"), least = byId("least"), most = byId("most"), kind = byId("kind"), order = byId("order");
    const texts = (row) => [row.c, row.o, row.k, row.d, row.r, ...(row.n || []).map((one) => one[0])].filter(Boolean).join("\n").toLowerCase();
    for (const row of [...data.samples, ...data.rejects]) row.text = texts(row);
    let shown = STEP, rows = [];
    const limit = (input) => (input.value === "" || !Number.isFinite(Number(input.value)) ? null : Number(input.value));
    const draw = () => {
      byId("sample").replaceChildren(...rows.slice(0, shown).map((row) => card(row, false)));
      byId("shown").textContent = `${grouped(Math.min(shown, rows.length))} of ${grouped(rows.length)} shown`;
      byId("more").hidden = shown >= rows.length;
    };
    const filter = () => {
      const wanted = word.value.trim().toLowerCase(), low = limit(least), high = limit(most);
      const source = kind.value === "" ? data.samples : kind.value === "rejects" ? data.rejects : data.rejects.filter((row) => row.r === kind.value.slice(7));
      rows = source.filter((row) => (!wanted || row.text.includes(wanted)) &&
        (low === null || (typeof row.v === "number" && row.v >= low)) &&
        (high === null || (typeof row.v === "number" && row.v <= high)));
      const by = { match: (row) => -(row.itm ?? -1), mismatch: (row) => row.itm ?? 2, high: (row) => -(row.v ?? -2), low: (row) => row.v ?? 2, gain: (row) => -((row.v ?? -2) - (row.ov ?? 2)), loss: (row) => (row.v ?? 2) - (row.ov ?? -2) }[order.value];
      if (by) rows = [...rows].sort((a, b) => by(a) - by(b));
      shown = STEP;
      draw();
    };
    for (const input of [word, least, most, kind, order]) input.addEventListener("input", filter);
    byId("more").addEventListener("click", () => {
      const first = shown;
      shown += STEP;
      draw();
      const next = byId("sample").children[first];
      if (next) {
        next.tabIndex = -1;
        next.focus();
      }
    });
    filter();
  };
  if (byId("sample")) sample();
})();
