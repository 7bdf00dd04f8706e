"use strict";
// What every page has: elements, figures as words, what the browser keeps, and its colours.

const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const signed = (nats) => `${nats < 0 ? "\u2212" : "+"}${Math.abs(nats).toFixed(2)}`;
const many = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

// Control characters cannot be seen, so their codes are shown.
const visible = (text) =>
  text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g, (c) =>
    `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// Kept in the browser, if it lets a page keep anything.
const kept = {
  read(name) {
    try { return localStorage.getItem(`icm-client ${name}`); } catch { return null; }
  },
  write(name, text) {
    try {
      if (text === null) localStorage.removeItem(`icm-client ${name}`);
      else localStorage.setItem(`icm-client ${name}`, text);
    } catch { /* the page forgets when it is closed */ }
  },
  // The names that begin so, without that beginning.
  names(prefix) {
    const whole = `icm-client ${prefix}`;
    try {
      return Object.keys(localStorage).filter((name) => name.startsWith(whole)).map((name) => name.slice(whole.length));
    } catch { return []; }
  },
};

{
  const THEMES = ["system", "light", "dark"];
  const theme = byId("theme");
  const paint = (name) => {
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    theme.textContent = `Colours: ${name}`;
    theme.setAttribute("aria-label", `Colours: ${name === "system" ? "as the system" : name}`);
    theme.value = name;
  };
  paint(THEMES.includes(kept.read("theme")) ? kept.read("theme") : "system");
  theme.addEventListener("click", () => {
    paint(THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]);
    kept.write("theme", theme.value === "system" ? null : theme.value);
  });
}
