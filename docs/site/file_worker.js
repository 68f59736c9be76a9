// The search runs in a worker, and browsers give none to pages that were opened as files. There its script runs in a
// hidden frame of the page instead: the same messages, the same answers.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      const inside = (this.inside = frame.contentWindow);
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => Promise.all(urls.map(load));
      function load(src) {
        return new Promise((loaded, failed) => {
          const script = inside.document.createElement("script");
          Object.assign(script, { src, onload: loaded, onerror: failed });
          inside.document.documentElement.append(script);
        });
      }
      this.ready = load(new URL(url, location.href).href);
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {}
  };
}
