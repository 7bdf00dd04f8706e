"use strict";
// A person's answers, saved beside the run as soon as they are given. What is not saved yet is kept
// in the browser and sent again; what others say of the rows appears as it comes.

// `by()` is the person's name; `changed(document)` gets what the server knows of the checks.
function savedChecks(data, run, by, changed) {
  const path = `/runs/${encodeURIComponent(run)}/checks`;
  const prefix = `unsaved ${run} `;
  const waiting = new Map(); // id as JSON -> { label, by }
  let sending = false;
  let missed = false; // whether another answer to a row came while ours was on its way
  let pause = 0; // seconds until what failed is sent again
  let trouble = "";

  const say = () => {
    const n = waiting.size;
    const shown = byId("saved");
    shown.dataset.state = trouble ? "trouble" : n ? "saving" : "saved";
    setText(shown, !n && trouble ? trouble : !n ? (checks.size ? "All answers are saved." : "")
      : trouble ? `${many(n, "answer")} not saved yet: ${trouble} Kept in this browser and sent again.` : "Saving\u2026");
  };

  const checks = checksOf(data, (n, label) =>
    keep(JSON.stringify(data.rows[n][ID]), { label: label === null ? null : data.words[label], by: by() }));

  const keep = (id, said) => {
    waiting.set(id, said);
    kept.write(prefix + id, JSON.stringify(said));
    send();
  };

  const done = (id, said) => {
    if (waiting.get(id) !== said) return; // answered anew meanwhile
    waiting.delete(id);
    kept.write(prefix + id, null);
  };

  const send = async () => {
    if (sending) return;
    sending = true;
    say();
    while (waiting.size) {
      const [id, said] = waiting.entries().next().value;
      try {
        await post(path, { id: JSON.parse(id), ...said });
        done(id, said);
        pause = 0;
        trouble = "";
      } catch (error) {
        trouble = error.message;
        if ([400, 404, 413].includes(error.status)) { // it would be refused again
          done(id, said);
          missed = true;
        } else {
          pause = Math.min(30, 2 * pause || 1);
          setTimeout(send, 1000 * pause);
          break;
        }
      }
    }
    sending = false;
    say();
    if (missed && !waiting.size) read();
  };

  // Shows the checks as the server has them, but for those that are on their way.
  const read = async () => {
    missed = false;
    let found;
    try {
      const answer = await fetch(`${path}.json`);
      if (!answer.ok) return;
      found = await answer.json();
    } catch { return; }
    const labels = new Map(found.checks.map(({ id, label }) => [JSON.stringify(id), label]));
    for (const id of Object.keys(checks.words())) if (!labels.has(id) && !waiting.has(id)) checks.show(id, null);
    for (const [id, label] of labels) if (!waiting.has(id)) checks.show(id, label);
    changed(found);
    say();
  };

  addEventListener("beforeunload", (event) => { if (waiting.size) event.preventDefault(); });
  addEventListener("online", send);

  for (const id of kept.names(prefix)) {
    try {
      const said = JSON.parse(kept.read(prefix + id));
      waiting.set(id, said);
      checks.show(id, said.label);
    } catch { kept.write(prefix + id, null); /* not ours */ }
  }
  if (waiting.size) send();

  let soon;
  return Object.assign(checks, {
    read,
    heard({ id, label }) {
      const name = JSON.stringify(id);
      if (waiting.has(name)) missed = true;
      else checks.show(name, label);
      clearTimeout(soon);
      soon = setTimeout(read, 1000);
    },
  });
}
