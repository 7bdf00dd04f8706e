"use strict";
// Runs that are started from a page: the page of one opens as soon as the run has begun.

// `told(child)` gets a child that has ended before its run began. Both `run` and `child` of what it
// returns are to hear what the server tells.
function startedRuns(told) {
  const lines = new Map(); // process -> the line of the run that it works on
  const children = new Map(); // process -> the child
  let awaited = null;
  // A process may have the id of an earlier one, whose run is another.
  const begun = (child) => {
    const line = lines.get(child?.process);
    return line && Date.parse(line.updated ?? "") >= Date.parse(child.at) ? line : null;
  };
  const open = () => {
    const line = begun(awaited);
    if (!line) return;
    // It was there before, with the same settings and pins: it goes on, or is done.
    awaited = null;
    location.assign(`/runs/${encodeURIComponent(line.name)}`);
  };
  return {
    of: (process) => children.get(process),
    await(child) { awaited = child; open(); },
    run(line) { lines.set(line.process, line); open(); },
    child(child) {
      children.set(child.process, child);
      if (child.process === awaited?.process && !child.running && !begun(child)) {
        awaited = null;
        told(child);
      }
    },
  };
}
