"use strict";
// A person's answers, saved beside the run as soon as they are given. What is not saved yet is kept
// in the browser and sent again; what others say of the rows appears as it comes.

// `by()` is the person's name; `changed(document)` gets what the server knows of the checks.
function savedChecks(data, run, by, changed) {
  const path = `/runs/${encodeURIComponent(run)}/checks`;
  const prefix = `unsaved ${run} `;
  // id as JSON -> { said: { label, by, at }, text: as the browser keeps it, old: by an earlier page }
  const waiting = new Map();
  const refused = new Map(); // id as JSON -> why; given again, or by the next page, it may be taken
  let compared = false; // whether the server's answers are known: theirs may be later than old ones
  let sending = false;
  let missed = false; // whether another answer to a row came while ours was on its way
  let pause = 0; // seconds until what failed is sent again
  let timer;
  let trouble = "";

  const say = () => {
    const n = waiting.size;
    const shown = byId("saved");
    const lost = refused.size
      ? `${many(refused.size, "answer")} refused (row ${[...refused.keys()].map((id) => visible(String(JSON.parse(id)))).join(", ")}): ${[...refused.values()].pop()} ` : "";
    shown.dataset.state = trouble || lost ? "trouble" : n ? "saving" : "saved";
    setText(shown, lost + (!n ? (checks.size && !lost ? "All answers are saved." : "")
      : trouble ? `${many(n, "answer")} not saved yet: ${trouble} Leave this page open: they are sent again.` : "Saving\u2026"));
  };

  const checks = checksOf(data, (n, label) =>
    keep(JSON.stringify(data.rows[n][ID]), { label: label === null ? null : data.words[label], by: by(), at: new Date().toISOString() }));

  const keep = (id, said) => {
    kept.write(prefix + id, JSON.stringify(said));
    waiting.set(id, { said, text: kept.read(prefix + id), old: false });
    refused.delete(id);
    send();
  };

  const forget = (id, own) => {
    if (kept.read(prefix + id) === own.text) kept.write(prefix + id, null); // else another tab's
    if (waiting.get(id) === own) waiting.delete(id); // else answered anew meanwhile
  };

  const send = async () => {
    if (sending) return;
    sending = true;
    say();
    while (waiting.size) {
      const [id, own] = waiting.entries().next().value;
      try {
        if (own.old && !compared && !(await read())) throw new Error("The server does not answer.");
        if (waiting.get(id) !== own) continue;
        if (kept.read(prefix + id) !== own.text) { // another tab has sent it, or knows a later one
          waiting.delete(id);
          missed = true;
          continue;
        }
        await post(path, { id: JSON.parse(id), ...own.said });
        forget(id, own);
        pause = 0;
        trouble = "";
      } catch (error) {
        if ([400, 404, 413].includes(error.status)) { // it would be refused again
          refused.set(id, error.message);
          if (own.old) forget(id, own);
          else if (waiting.get(id) === own) waiting.delete(id);
          missed = true;
        } else {
          trouble = error.message;
          pause = Math.min(30, 2 * pause || 1);
          clearTimeout(timer);
          timer = setTimeout(send, 1000 * pause);
          break;
        }
      }
    }
    if (!waiting.size) trouble = "";
    sending = false;
    say();
    if (missed && !waiting.size) read();
  };

  // Shows the checks as the server has them, but for those that are on their way; says whether it could.
  const read = async () => {
    missed = false;
    let found;
    try {
      const answer = await fetch(`${path}.json`);
      if (!answer.ok) return false;
      found = await answer.json();
    } catch { return false; }
    for (const { id, at } of found.checks) {
      const own = waiting.get(JSON.stringify(id));
      if (own?.old && !(Date.parse(own.said.at) >= Date.parse(at))) forget(JSON.stringify(id), own);
    }
    compared = true;
    const labels = new Map(found.checks.map(({ id, label }) => [JSON.stringify(id), label]));
    for (const id of Object.keys(checks.words())) if (!labels.has(id) && !waiting.has(id)) checks.show(id, null);
    for (const [id, label] of labels) if (!waiting.has(id)) checks.show(id, label);
    changed(found);
    say();
    return true;
  };

  addEventListener("beforeunload", (event) => { if (waiting.size) event.preventDefault(); });
  addEventListener("online", send);

  for (const id of kept.names(prefix)) {
    const text = kept.read(prefix + id);
    try {
      const said = JSON.parse(text);
      checks.show(id, said.label);
      waiting.set(id, { said, text, old: true });
    } catch { kept.write(prefix + id, null); /* not ours */ }
  }
  if (waiting.size) send();

  let soon;
  return Object.assign(checks, {
    read,
    // People are measured against gold: who checks a row sees its gold label after the answer.
    showsGold: (n) => checks.has(n),
    heard({ id, label }) {
      const name = JSON.stringify(id);
      if (waiting.has(name)) missed = true;
      else checks.show(name, label);
      clearTimeout(soon);
      soon = setTimeout(read, 1000);
    },
  });
}
