// Colours of terminals in text (ECMA-48, Select Graphic Rendition). Other sequences are left out.
import type { JSX } from "preact";

const names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

/** ansi draws a line, and marks what was searched for. */
export function ansi(line: string, find = ""): JSX.Element[] {
  const out: JSX.Element[] = [];
  let colour = "", bold = false;
  // eslint-disable-next-line no-control-regex
  for (const [i, part] of line.split(/(\u001b\[[0-9;]*m|\u001b\[[0-9;?]*[A-Za-ln-z]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\))/).entries()) {
    if (i % 2 === 0) {
      if (part) out.push(<span key={i} class={[colour && `ansi-${colour}`, bold && "bold"].filter(Boolean).join(" ") || undefined}>{marked(part, find)}</span>);
      continue;
    }
    const m = /^\u001b\[([0-9;]*)m$/.exec(part);
    if (!m) continue;
    for (const code of (m[1] || "0").split(";").map(Number)) {
      if (code === 0) { colour = ""; bold = false; }
      else if (code === 1) bold = true;
      else if (code === 22) bold = false;
      else if (code === 39) colour = "";
      else if (code >= 30 && code <= 37) colour = names[code - 30]!;
      else if (code >= 90 && code <= 97) colour = names[code - 90]!;
    }
  }
  return out;
}

function marked(text: string, find: string) {
  if (!find) return text;
  const out: (string | JSX.Element)[] = [];
  const lower = text.toLowerCase(), want = find.toLowerCase();
  let at = 0;
  for (let next = lower.indexOf(want); next >= 0; next = lower.indexOf(want, at)) {
    out.push(text.slice(at, next), <mark key={next}>{text.slice(next, next + want.length)}</mark>);
    at = next + want.length;
  }
  out.push(text.slice(at));
  return out;
}
