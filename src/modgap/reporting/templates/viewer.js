// The problem viewer: a filtered, windowed list on the left and one problem on the right. No libraries, no network.
// Words of a model reach the page through textContent only.
"use strict";
(() => {
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const store = {
    get: () => { try { return localStorage.getItem("modgap-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("modgap-theme", value); } catch { /* a file: page may have no storage */ } },
  };
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const setTheme = (name) => { root.dataset.theme = name; $("theme").textContent = dark() ? "Light" : "Dark"; };
  if (store.get()) setTheme(store.get());
  $("theme").textContent = dark() ? "Light" : "Dark";
  $("theme").addEventListener("click", () => { setTheme(dark() ? "light" : "dark"); store.set(root.dataset.theme); });

  if (!$("index")) return;
  const index = JSON.parse($("index").textContent);
  const { runs, types, problems } = index;
  const NAMES = { c: "correct", w: "wrong", n: "no_answer", e: "error" };
  const SIGN = { correct: "✓", wrong: "✗", no_answer: "∅", error: "!" };
  const WORDS = { correct: "correct", wrong: "wrong", no_answer: "no answer", error: "could not be graded" };
  const ROW = 52;
  const chunks = new Map();
  let shown = problems, current = null, search = 0;

  // Details come in blocks of problems; a block is parsed when one of its problems is first looked at.
  const block = async (number) => {
    if (!chunks.has(number)) {
      const element = $("block-" + number);
      let text = element.textContent;
      if (element.dataset.packed) {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
      }
      if (chunks.size > 40) chunks.delete(chunks.keys().next().value);
      chunks.set(number, JSON.parse(text));
    }
    return chunks.get(number);
  };
  const detailOf = async (position) => (await block(Math.floor(position / index.block)))[position % index.block];

  const make = (tag, props = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (name === "class") element.className = value;
      else if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const marks = (letters) => {
    const box = make("span", { class: "marks", role: "img" }), names = [];
    for (const letter of letters || "") {
      const outcome = NAMES[letter.toLowerCase()];
      const name = WORDS[outcome] + (letter === letter.toLowerCase() ? "" : ", cut at the token limit");
      names.push(name);
      box.append(make("span", { class: "o-" + outcome, textContent: SIGN[outcome], title: name }));
    }
    box.setAttribute("aria-label", names.join("; ") || "no response");
    return box;
  };

  // LaTeX is rendered by KaTeX, if the page holds it; what it refuses stays as it is, but for the marks of geometry. Its output is
  // built of nodes, not of HTML.
  const BEFORE = { angle: "∠", measuredangle: "∡", triangle: "△", odot: "⊙", parallelogram: "▱", square: "□", widehat: "⌒", wideparen: "⌒", overparen: "⌒", overarc: "⌒" };
  const BETWEEN = { perp: "⊥", parallel: "∥", cong: "≅", sim: "∼", times: "×", cdot: "·", pi: "π", degree: "°" };
  const symbols = (text) => text.replace(/\^(?:\{\\circ\}|\\circ(?![A-Za-z]))/g, "°").replace(/\\([A-Za-z]+)( *\{[A-Z]+\}| +(?=(?:[A-Z]{1,4}|\d+)(?![A-Za-z])))?/g, (all, name, points = "") =>
    Object.hasOwn(BEFORE, name) ? BEFORE[name] + points.replace(/[ {}]/g, "") : Object.hasOwn(BETWEEN, name) ? BETWEEN[name] + points.replace(/[{}]/g, "") : all);
  const macros = { "\\parallelogram": "▱", "\\wideparen": "\\overgroup", "\\overparen": "\\overgroup", "\\overarc": "\\overgroup" };
  const MATH = /\$\$([^$]+)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|\$([^$\n]+)\$|(\\[a-zA-Z]+(?:\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*(?: +[A-Z]{1,3}(?![A-Za-z]))?)/g;
  const rich = (text) => {
    if ($("f-raw").checked) return [text];
    if (typeof katex === "undefined") return [symbols(text)];
    const parts = [];
    let at = 0;
    for (const match of text.matchAll(MATH)) {
      const box = make("span", { class: "math" });
      const words = match.slice(1).find((part) => part !== undefined).replace(/^(\\[a-z]+) +([A-Z]{2,3})$/, "$1{$2}"); // an arc over both points
      try { katex.render(words, box, { output: "mathml", displayMode: Boolean(match[1] || match[2]), maxSize: 20, macros: { ...macros }, strict: false }); } catch { continue; }
      parts.push(symbols(text.slice(at, match.index)), box);
      at = match.index + match[0].length;
    }
    return [...parts, symbols(text.slice(at))];
  };
  const marked = (text, misread) => {
    const parts = [];
    let at = 0;
    for (const [start, end] of misread ? misread.w : []) {
      parts.push(...rich(text.slice(at, start)), make("mark", { title: "misread" }, ...rich(text.slice(start, end))));
      at = end;
    }
    return [...parts, ...rich(text.slice(at))];
  };

  // The list
  const list = $("list"), inner = $("list-inner");
  const runIndex = () => Number($("f-run").value);
  const drawList = () => {
    inner.style.height = shown.length * ROW + "px";
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
    const focused = inner.contains(document.activeElement) ? document.activeElement.dataset.slug : null;
    inner.replaceChildren();
    for (let i = first; i < last; i++) {
      const problem = shown[i];
      const outcomes = problem.o[runIndex()] || [];
      const top = make("span", { class: "l1" }, make("span", { textContent: problem.i }), make("span", {}));
      outcomes.slice(0, 2).forEach((letters, k) => { if (k) top.lastChild.append(" "); top.lastChild.append(marks(letters)); });
      const button = make("button", { type: "button" }, top, make("span", { class: "l2" }, ...rich(problem.q || types[problem.t])));
      button.dataset.slug = problem.i;
      button.style.top = i * ROW + "px";
      if (problem === current) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => open(problem));
      inner.append(button);
      if (focused === problem.i) button.focus({ preventScroll: true });
    }
  };
  const reveal = () => {
    const at = shown.indexOf(current);
    if (at < 0) return;
    if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
    else if ((at + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * ROW - list.clientHeight;
  };

  // Filters
  const filter = async () => {
    const turn = ++search;
    const run = runIndex(), group = $("f-group").value, type = $("f-type").value, outcome = $("f-outcome").value;
    const words = $("f-search").value.trim().toLowerCase(), deep = $("f-deep").checked;
    let kept = problems.filter((p) =>
      (!group || (group === "t:m" ? ["numbers", "names"].includes(p.d[run]) : group.startsWith("t:") ? p.d[run] === group.slice(2) : p.g[run] === group)) && (type === "" || p.t === Number(type)) &&
      (!outcome || (p.o[run] || []).some((letters) => [...letters].some((c) => outcome === "cut" ? c !== c.toLowerCase() : c.toLowerCase() === outcome))));
    if (words) {
      const near = (p) => (p.i + "\n" + p.q + "\n" + p.a).toLowerCase().includes(words);
      if (!deep) kept = kept.filter(near);
      else {
        const hits = [];
        for (const p of kept) {
          if (p.k % index.block === 0) $("count").textContent = "searching…";
          const detail = await detailOf(p.k);
          if (turn !== search) return;
          if (near(p) || detail.r.some((r) => r && r.v.some((v) => v.s.some((s) => s[0].toLowerCase().includes(words))))) hits.push(p);
        }
        kept = hits;
      }
    }
    if (turn !== search) return;
    shown = kept;
    $("count").textContent = shown.length === problems.length ? `${problems.length} problems` : `${shown.length} of ${problems.length} problems`;
    list.scrollTop = 0;
    drawList();
    if (shown.length && !shown.includes(current)) open(shown[0], false); else { reveal(); drawList(); }
    if (!shown.length) $("detail").replaceChildren(make("p", { class: "muted", textContent: "No problem fits these filters. Widen one of them." }));
  };

  // One problem
  const prompts = (detail, number) => {
    const text = detail.p[number] ?? "";
    return make("details", { class: "prompt" }, make("summary", { class: "small", textContent: "Prompt" }), make("pre", { textContent: text }));
  };
  const sample = (row, number) => {
    const [text, letter, answer, stage, finish, tokens, fault, misread] = row;
    const outcome = NAMES[letter];
    const top = make("div", { class: "top" },
      make("b", { class: "o-" + outcome }, make("span", { class: "visually-hidden", textContent: `Sample ${number + 1}: ` }), `${SIGN[outcome]} ${WORDS[outcome]}`),
      make("span", {}, "answer ", make("bdi", { textContent: answer === null ? "none" : answer })),
      make("span", { textContent: "decided by " + stage }),
      make("span", { textContent: `${tokens} tokens` + (finish === "length" ? ", cut at the limit" : finish === "error" ? ", failed" : "") }));
    const missing = misread ? make("p", { class: "misread small" }, "Not read: ", ...misread.m.flatMap((words, k) => [k ? "; " : "", ...rich(words)]), ".", misread.w.length ? " Underlined below: what it writes instead." : "") : null;
    return make("div", { class: "sample" }, top, missing, make("pre", { tabIndex: 0 }, fault ? `${fault}\n` : "", ...marked(text, misread)));
  };
  const open = async (problem, linkTo = true) => {
    current = problem;
    const detail = await detailOf(problem.k);
    if (current !== problem) return;
    const facts = make("dl", {});
    const fact = (name, value) => facts.append(make("dt", { textContent: name }), make("dd", {}, ...(name === "Type" ? [value] : rich(value))));
    fact("Question", problem.q || "(not recorded)");
    fact("Gold answer", problem.a);
    if (types[problem.t]) fact("Type", types[problem.t]);
    if (detail.c) fact("Conditions", detail.c);
    const reads = runs.map((run, k) => problem.d[k] && (runs.length > 1 ? run.name + ": " : "") + index.kinds[problem.d[k]]).filter(Boolean);
    if (reads.length) fact("Reading", reads.join("; "));
    if (problem.l) fact("Note", "The question itself states a number or an equation, so every view shows it.");
    const picture = detail.m.length ? make("div", { class: "pictures" }, ...detail.m.map(([source, views]) => make("figure", {},
        make("img", { src: source, alt: `Diagram of ${problem.i}` + (views && `, ${views}`) }),
        views ? make("figcaption", { class: "small muted", textContent: `Shown in ${views}` }) : null)))
      : make("p", { class: "small muted", textContent: index.images[problem.m] });
    const at = shown.indexOf(problem);
    const step = (by, words) => make("button", { type: "button", textContent: words, disabled: !shown[at + by], onclick: () => open(shown[at + by]) });
    const header = make("header", {}, make("h3", { textContent: problem.i }),
      make("a", { class: "small", href: "#problem=" + encodeURIComponent(problem.i), textContent: "Link to this problem" }),
      make("span", { class: "nav" }, step(-1, "Previous"), step(1, "Next")));
    const body = [header, make("div", { class: "facts" }, facts, picture)];
    const only = $("f-only").checked;
    detail.r.forEach((entry, number) => {
      if (!entry || (only && number !== runIndex())) return;
      const views = make("div", { class: "views" });
      entry.v.forEach((view, k) => {
        const name = runs[number].views[k];
        const column = make("div", { class: "view" },
          make(runs.length > 1 ? "h5" : "h4", {}, make("span", { class: { text: "t", vision: "v" }[runs[number].sides[k]] || "c2", textContent: name }), marks(problem.o[number][k])),
          prompts(detail, view.p));
        if (!view.s.length) column.append(make("p", { class: "small muted", textContent: "No response in this view yet." }));
        view.s.forEach((row, n) => column.append(sample(row, n)));
        views.append(column);
      });
      body.push(make("div", { class: "run" }, runs.length > 1 ? make("h4", { textContent: runs[number].name }) : null, views));
    });
    $("detail").replaceChildren(...body);
    if (linkTo) history.replaceState(null, "", "#problem=" + encodeURIComponent(problem.i));
    reveal();
    drawList();
  };
  const move = (by) => { const next = shown[shown.indexOf(current) + by]; if (next) open(next); };

  const fromLink = () => {
    const match = location.hash.match(/^#problem=(.*)$/);
    if (!match) return false;
    let wanted = match[1];
    try { wanted = decodeURIComponent(wanted); } catch { /* a hand-made link: take it as it is */ }
    const problem = problems.find((p) => p.i === wanted);
    if (!problem) return false;
    if (!shown.includes(problem)) { for (const id of ["f-group", "f-type", "f-outcome", "f-search"]) $(id).value = ""; shown = problems; }
    open(problem, false).then(() => $("problems").scrollIntoView());
    return true;
  };

  problems.forEach((problem, position) => { problem.k = position; });
  for (const id of ["f-run", "f-group", "f-type", "f-outcome", "f-deep"]) $(id).addEventListener("change", filter);
  for (const id of ["f-only", "f-raw"]) $(id).addEventListener("change", () => { drawList(); if (current) open(current, false); });
  $("f-raw").parentElement.hidden = !index.latex;
  // What a reader comes for: the problems that the picture costs.
  if (problems.some((p) => p.g[0] === "t")) $("f-group").value = "t";
  let timer = 0;
  $("f-search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 150); });
  let frame = 0;
  list.addEventListener("scroll", () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(drawList); });
  addEventListener("resize", drawList);
  addEventListener("hashchange", fromLink);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const inList = list.contains(event.target);
    if (event.key === "j" || (inList && event.key === "ArrowDown")) { event.preventDefault(); move(1); }
    else if (event.key === "k" || (inList && event.key === "ArrowUp")) { event.preventDefault(); move(-1); }
    else if (event.key === "/") { event.preventDefault(); $("f-search").focus(); }
  });
  drawList();
  filter().then(() => { fromLink(); });
})();
