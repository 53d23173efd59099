// Runs in each document before the page's scripts: it counts what the page receives, and measures until something is on the screen.
(() => {
  const probe = window.probe = { bytes: 0, messages: 0, following: new Set(), most: 0 };

  class Counted extends WebSocket {
    constructor(...args) {
      super(...args);
      probe.following.clear();
      this.addEventListener("message", (e) => { probe.bytes += e.data.length; probe.messages++; });
    }
    send(data) {
      const { op, id } = JSON.parse(data);
      if (op === "open") probe.following.add(id); else probe.following.delete(id);
      super.send(data);
    }
  }
  window.WebSocket = Counted;

  /** painted is the time after the next frame is drawn. */
  const painted = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done(performance.now());
    channel.port2.postMessage(0);
  }));

  /** drawn waits until scripts have drawn, which takes less than a frame, of which a busy machine has few. */
  const drawn = () => new Promise((done) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  });

  probe.rows = () => [...document.querySelectorAll("tbody tr[data-index]")];
  probe.count = () => document.querySelector(".count")?.textContent ?? "";

  /** when is the time at which something is true on the screen. */
  probe.when = async (holds) => {
    for (;;) {
      const at = await painted();
      if (holds()) return at;
    }
  };

  /** took is how long it takes from what do does until something is true on the screen. */
  probe.took = async (act, holds) => {
    const began = performance.now();
    act();
    return (await probe.when(holds)) - began;
  };

  /** key is how long it takes from the next key until something is true on the screen. */
  probe.key = (holds) => {
    probe.typed = new Promise((done) => addEventListener("keydown", async (e) => done((await probe.when(holds)) - e.timeStamp), { capture: true, once: true }));
  };

  /** walk scrolls through the table and back, and returns the texts of all rows in their order, with the most rows that the document had at a time. */
  probe.walk = async () => {
    const scroller = document.querySelector(".rows");
    const found = new Map();
    let most = 0;
    const scroll = async (to) => {
      scroller.scrollTop = to;
      scroller.dispatchEvent(new Event("scroll")); // without waiting for the browser's own, which is of the next frame
      await drawn();
    };
    await scroll(0);
    for (;;) {
      const rows = probe.rows();
      most = Math.max(most, rows.length);
      for (const r of rows) found.set(Number(r.dataset.index), [...r.cells].map((c) => c.textContent));
      const at = scroller.scrollTop;
      if (at + scroller.clientHeight >= scroller.scrollHeight - 1) break;
      await scroll(at + scroller.clientHeight);
    }
    await scroll(0);
    return { most, rows: [...found].sort(([a], [b]) => a - b).map(([, cells]) => cells) };
  };

  probe.first = probe.when(() => probe.rows().length > 0);
})();
