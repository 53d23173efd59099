// Drawn on a grid of 16, in the colour of the text.
const shapes = {
  overview: "M2.5 9.5a5.5 5.5 0 0 1 11 0M8 9.5l2.5-3M2.5 12.5h11",
  pods: "M8 1.8l5.4 3.1v6.2L8 14.2l-5.4-3.1V4.9zM8 8l5.4-3.1M8 8v6.2M8 8L2.6 4.9",
  workloads: "M2 3h5v4H2zM9 3h5v4H9zM2 9h5v4H2zM9 9h5v4H9z",
  nodes: "M2 3h12v4H2zM2 9h12v4H2zM4.5 5h.01M4.5 11h.01",
  mesos: "M2 12V5l3 3 3-4.5L11 8l3-3v7z",
  offers: "M2 6.5L8 3l6 3.5M3 7v5.5h10V7M6 12.5V9h4v3.5",
  queue: "M3 4h10M3 8h7M3 12h4M13 10v4M11 12h4",
  network: "M8 5.2V8M8 8H4v2.5M8 8h4v2.5M6.2 2h3.6v3.2H6.2zM2.2 10.5h3.6v3H2.2zM10.2 10.5h3.6v3h-3.6z",
  config: "M3 4h10M3 8h10M3 12h10M6 2.8v2.4M10.5 6.8v2.4M5 10.8v2.4",
  storage: "M2.5 4c0-2.4 11-2.4 11 0v8c0 2.4-11 2.4-11 0zM2.5 4c0 2.4 11 2.4 11 0M2.5 8c0 2.4 11 2.4 11 0",
  access: "M5.5 7V5a2.5 2.5 0 0 1 5 0v2M3.5 7h9v6.5h-9zM8 9.8v1.4",
  resources: "M2 4.5L8 2l6 2.5L8 7zM2 8l6 2.5L14 8M2 11.5L8 14l6-2.5",
  events: "M8 4.5V8l2.3 1.5M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2",
  logs: "M3 2.5h10v11H3zM5.5 5.5h5M5.5 8h5M5.5 10.5h3",
  metrics: "M2 13.5h12M4 11V8M8 11V3.5M12 11V6",
  terminal: "M2 3h12v10H2zM4.5 6l2 2-2 2M8.5 10h3",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.3 10.3l3.4 3.4",
  menu: "M2.5 4h11M2.5 8h11M2.5 12h11",
  close: "M4 4l8 8M12 4l-8 8",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  paste: "M5.5 3h-2v10.5h9V3h-2M5.8 1.8h4.4v2.4H5.8z",
  trash: "M3 4.5h10M6 4.5V2.8h4v1.7M4.2 4.5l.6 9h6.4l.6-9M6.8 7v4M9.2 7v4",
  evict: "M6.5 3h-4v10h4M6 8h8M11 5l3 3-3 3",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  up: "M4 10l4-4 4 4",
  down: "M4 6l4 4 4-4",
  right: "M6 4l4 4-4 4",
  check: "M3 8.5l3.3 3.2L13 4.8",
  edit: "M3 13l.7-3L10.5 3.2l2.3 2.3L6 12.3zM9.2 4.5l2.3 2.3",
  columns: "M2.5 3h11v10h-11zM6.2 3v10M9.8 3v10",
  download: "M8 2.5v7.5M4.8 7L8 10.2 11.2 7M3 13.5h10",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  play: "M4.5 3l8 5-8 5z",
  restart: "M13 8a5 5 0 1 1-1.6-3.7M13 2.5v3h-3",
  scale: "M2.5 13.5v-4M2.5 13.5h4M2.5 13.5l4.5-4.5M13.5 2.5v4M13.5 2.5h-4M13.5 2.5L9 7",
  user: "M8 8a2.8 2.8 0 1 0 0-5.6A2.8 2.8 0 0 0 8 8M2.8 14c.6-5 9.8-5 10.4 0",
  keyboard: "M1.5 4h13v8h-13zM4 6.5h.01M6.7 6.5h.01M9.3 6.5h.01M12 6.5h.01M4.5 9.5h7",
  link: "M6.5 9.5l3-3M7 4.8l1.3-1.3a2.9 2.9 0 0 1 4.2 4.2L11.2 9M9 11.2l-1.3 1.3a2.9 2.9 0 0 1-4.2-4.2L4.8 7",
  add: "M8 3v10M3 8h10",
} as const;

export type IconName = keyof typeof shapes;

export const Icon = ({ name }: { name: IconName }) => (
  <svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d={shapes[name]} /></svg>
);

/** Mark is the icon of a state: each tone has a shape of its own, so that it needs no colour. */
export function Mark({ tone }: { tone: string }) {
  return (
    <svg class={`mark ${tone}`} viewBox="0 0 16 16" aria-hidden="true">
      {tone === "ok" && <circle cx="8" cy="8" r="5" class="full" />}
      {tone === "done" && <><circle cx="8" cy="8" r="5.5" /><path d="M5.4 8.2l1.8 1.7 3.4-3.6" /></>}
      {tone === "busy" && <><circle cx="8" cy="8" r="5.5" /><path d="M8 5v3l2 1.4" /></>}
      {tone === "warn" && <><path d="M8 2.6l6 10.8H2z" /><path d="M8 7v2.8M8 11.6v.01" /></>}
      {tone === "bad" && <><path class="full" d="M5.4 2h5.2L14 5.4v5.2L10.6 14H5.4L2 10.6V5.4z" /><path class="cut" d="M5.8 5.8l4.4 4.4M10.2 5.8l-4.4 4.4" /></>}
      {tone === "none" && <circle cx="8" cy="8" r="5" />}
    </svg>
  );
}
