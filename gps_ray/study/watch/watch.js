"use strict";
(() => {
  const page = document.getElementById("page"), form = document.getElementById("query");
  const pause = document.getElementById("pause"), told = document.getElementById("refreshed");
  const every = 1000 * Number(page.dataset.every), shown = {};
  let stamp = page.dataset.stamp, asked = 0, timer = 0;

  const query = () => {
    const filled = [...new FormData(form)].filter(([, value]) => value !== "");
    return new URLSearchParams(filled);
  };

  // Asks the server for what is new, or for everything where the reader looks for something else.
  async function refresh(everything) {
    const mine = ++asked, params = query();
    if (!everything) params.set("have", stamp);
    try {
      const answer = await fetch("parts?" + params, { cache: "no-store" });
      if (!answer.ok) throw new Error("status " + answer.status);
      const news = await answer.json();
      if (mine !== asked) return; // a newer question is on its way
      for (const [id, html] of Object.entries(news.parts)) {
        if (shown[id] !== html) document.getElementById(id).innerHTML = shown[id] = html;
      }
      stamp = news.stamp;
      document.title = news.title;
      told.textContent = "read at " + new Date().toLocaleTimeString();
    } catch (error) {
      told.textContent = "no answer from jobs.watch (" + error.message + "); asking again";
    }
  }

  async function go() {
    clearTimeout(timer);
    if (!pause.checked && !document.hidden) await refresh(false);
    else if (pause.checked) told.textContent = "held still";
    clearTimeout(timer);
    timer = setTimeout(go, every);
  }

  let typing = 0;
  function look() {
    const params = query().toString();
    history.replaceState(null, "", params ? "?" + params : location.pathname);
    refresh(true);
  }
  form.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(look, 250); });
  form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); look(); });
  pause.addEventListener("change", go);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) go(); });
  timer = setTimeout(go, every);
})();
