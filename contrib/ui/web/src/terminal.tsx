// A shell in a container: xterm over the exec WebSocket (v5.channel.k8s.io).
import type { Terminal } from "@xterm/xterm";
import { useEffect, useRef, useState } from "preact/hooks";
import { core, pathOf } from "./api";
import { param, setParams } from "./router";
import { Button } from "./ui";

// What the first byte of a message says
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-transitions and the protocol's package remotecommand).
const enum Channel { Stdin, Stdout, Stderr, Error, Resize, Close = 255 }

const shell = ["sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash || exec sh"];

export function TerminalView({ ns, pod, containers }: { ns: string; pod: string; containers: string[] }) {
  const container = containers.includes(param("container")) ? param("container") : containers[0]!;
  const [run, setRun] = useState(0);
  const [ended, setEnded] = useState("");
  const at = useRef<HTMLDivElement>(null);
  useEffect(() => {
    setEnded("");
    let stop = () => {}, over = false;
    void open(at.current!, ns, pod, container, setEnded).then((s) => { if (over) s(); else stop = s; });
    return () => { over = true; stop(); };
  }, [ns, pod, container, run]);
  return (
    <div class="terminal-page">
      <div class="toolbar">
        {containers.length > 1 && <label class="select"><span>Container</span><select value={container} onChange={(e) => setParams({ container: e.currentTarget.value })}>{containers.map((c) => <option key={c}>{c}</option>)}</select></label>}
        <span class="muted" role="status">{ended}</span>
        <span class="grow" />
        {ended && <Button icon="restart" onClick={() => setRun(run + 1)}>Again</Button>}
      </div>
      <div class="terminal" ref={at} />
    </div>
  );
}

/** open starts a shell in an element, and returns what ends it. */
async function open(at: HTMLElement, ns: string, pod: string, container: string, ended: (why: string) => void): Promise<() => void> {
  const [{ Terminal }, { FitAddon }] = await Promise.all([import("@xterm/xterm"), import("@xterm/addon-fit")]);
  const terminal = new Terminal({
    fontFamily: "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace", fontSize: 13, scrollback: 10_000, cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
    theme: { background: "#10171a", foreground: "#dfe7e4", cursor: "#5cc7b2", selectionBackground: "#2f4a4a" }, screenReaderMode: true,
    // A program's link must be one that a person would open.
    linkHandler: { activate: (_, text) => { if (/^https?:\/\//.test(text)) window.open(text, "_blank", "noopener,noreferrer"); }, allowNonHttpProtocols: false },
  });
  // No program gets at the clipboard (OSC 52).
  terminal.parser.registerOscHandler(52, () => true);
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  at.replaceChildren();
  terminal.open(at);
  fit.fit();
  const query = new URLSearchParams({ container, stdin: "true", stdout: "true", tty: "true" });
  for (const word of shell) query.append("command", word);
  const socket = new WebSocket(`wss://${location.host}/api/k8s${pathOf(core("pods"), ns, pod)}/exec?${query}`, ["v5.channel.k8s.io"]);
  socket.binaryType = "arraybuffer";
  connect(socket, terminal, ended);
  const resized = new ResizeObserver(() => fit.fit());
  resized.observe(at);
  return () => { resized.disconnect(); socket.close(); terminal.dispose(); };
}

function connect(socket: WebSocket, terminal: Terminal, ended: (why: string) => void) {
  const encoder = new TextEncoder();
  const send = (channel: Channel, data: Uint8Array) => {
    if (socket.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(data.length + 1);
    message[0] = channel;
    message.set(data, 1);
    socket.send(message);
  };
  const size = () => send(Channel.Resize, encoder.encode(JSON.stringify({ Width: terminal.cols, Height: terminal.rows })));
  let why = "";
  socket.onopen = () => { size(); terminal.focus(); };
  socket.onmessage = (event) => {
    const data = new Uint8Array(event.data as ArrayBuffer);
    switch (data[0]) {
      case Channel.Stdout: case Channel.Stderr: terminal.write(data.subarray(1)); break;
      case Channel.Error: {
        const status = JSON.parse(new TextDecoder().decode(data.subarray(1)));
        why = status.status === "Success" ? "The shell has ended." : status.message ?? "The shell has failed.";
      }
    }
  };
  socket.onclose = () => {
    why ||= "No shell: the connection was refused or broke off. The container may have no sh.";
    ended(why);
    terminal.options.disableStdin = true;
  };
  terminal.onData((text) => send(Channel.Stdin, encoder.encode(text)));
  terminal.onBinary((text) => send(Channel.Stdin, Uint8Array.from(text, (c) => c.charCodeAt(0))));
  terminal.onResize(size);
}
