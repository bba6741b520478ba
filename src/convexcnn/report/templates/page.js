"use strict";
(() => {
  const root = document.documentElement;
  const button = document.querySelector("button.theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const key = "convexcnn-theme";
  const stored = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem(key, theme); } catch { /* no storage */ } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };

  const remembered = stored();
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;
  button.hidden = false;
  label();
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);

  for (const choice of document.querySelectorAll("fieldset.choice")) {
    const { choice: kind } = choice.dataset;
    const show = () => {
      const { value } = choice.querySelector("input:checked");
      for (const part of document.querySelectorAll(`[data-${kind}]`)) {
        part.classList.toggle("off", value !== "all" && part.dataset[kind] !== value);
      }
    };
    choice.hidden = false;
    choice.addEventListener("change", show);
    show();
  }

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
  });
})();
