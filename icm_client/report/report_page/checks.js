"use strict";
// A person's answers, row number -> label number, and the buttons that take them off the page.
// Whoever shows answers listens; where they are kept is another's: here in the browser.

// A row of the page's data.
const [ID, LABEL, CONFIDENCE, MARGIN, GOLD, EXACT, TEXTS, LEFT_OUT] = [0, 1, 2, 3, 4, 5, 6, 7];

// `save(n, label)` keeps an answer; label null takes it back.
function checksOf({ rows, words }, save) {
  const answers = new Map();
  const place = new Map(rows.map((row, n) => [JSON.stringify(row[ID]), n]));
  const listeners = [];
  const tell = (n) => { for (const listener of listeners) listener(n); };
  return {
    get: (n) => answers.get(n),
    has: (n) => answers.has(n),
    get size() { return answers.size; },
    get corrected() { return [...answers].filter(([n, k]) => rows[n][LABEL] !== k).length; },
    numbers: () => [...answers.keys()].sort((a, b) => a - b),
    words: () => Object.fromEntries(
      [...answers].map(([n, k]) => [JSON.stringify(rows[n][ID]), words[k]])),
    set(n, label) {
      if (label === null) answers.delete(n);
      else answers.set(n, label);
      save(n, label);
      tell(n);
    },
    // Shows an answer that is kept already: `id` as JSON, `word` null where there is none any more.
    show(id, word) {
      const n = place.get(id);
      const k = words.indexOf(word);
      if (n === undefined || (k < 0 && word !== null)) return;
      if (k < 0) answers.delete(n);
      else answers.set(n, k);
      tell(n);
    },
    listen(listener) { listeners.push(listener); },
    showsGold: () => true, // whether a row's gold label may be seen
  };
}

// Kept in this browser under the run's name; what another tab keeps is shown here, too.
function keptChecks(data, run) {
  const name = `checks ${run}`;
  const checks = checksOf(data, () =>
    kept.write(name, checks.size ? JSON.stringify(checks.words()) : null));
  const read = () => {
    try {
      const answers = JSON.parse(kept.read(name) ?? "{}");
      for (const id of Object.keys(checks.words())) if (!(id in answers)) checks.show(id, null);
      for (const [id, word] of Object.entries(answers)) checks.show(id, word);
    } catch { /* not ours */ }
  };
  read();
  addEventListener("storage", (event) => { if (event.key === `icm-client ${name}`) read(); });
  return checks;
}

// How many rows are checked, the downloads, and forgetting, which not every page offers.
function checkButtons({ rows, words }, checks, run) {
  const forget = byId("forget");
  const show = () => {
    byId("checked-count").textContent = checks.size === 0
      ? "Nothing checked yet."
      : `${many(checks.size, "row")} checked, ${checks.corrected.toLocaleString("en")} of them corrected.`;
    byId("download-checked").disabled = checks.size === 0;
    if (forget) forget.disabled = checks.size === 0;
  };
  const download = (name, numbers) => {
    const lines = numbers.map((n) =>
      `${JSON.stringify({ id: rows[n][ID], label: words[checks.get(n) ?? rows[n][LABEL]] })}\n`);
    const url = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  };
  byId("download-checked").addEventListener("click", () =>
    download(`${run}.checked.jsonl`, checks.numbers()));
  byId("download-all").addEventListener("click", () =>
    download(`${run}.corrected.jsonl`, rows.map((_, n) => n)));
  forget?.addEventListener("click", () => {
    if (!confirm(`Forget ${many(checks.size, "check")}?`)) return;
    for (const n of checks.numbers()) checks.set(n, null);
  });
  checks.listen(show);
  show();
}
