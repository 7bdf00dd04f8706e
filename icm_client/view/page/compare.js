"use strict";
// Runs side by side stand still; when one of them gets other labels, the page is loaded anew.
{
  const names = new Set(new URLSearchParams(location.search).getAll("run"));
  const known = new Map();
  listen({
    run(line) {
      if (!names.has(line.name)) return;
      const now = `${line.labelled} ${line.state === "running"} ${line.verdict}`;
      if (known.has(line.name) && known.get(line.name) !== now) location.reload();
      known.set(line.name, now);
    },
  });
}
