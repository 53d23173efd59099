import { useMemo } from "preact/hooks";
import { mesos, pageOf, core, session } from "../api";
import { count, span } from "../format";
import { usePoll } from "../live";
import { offered, podPath, type EndedOffer, type LiveOffer, type OfferHistory } from "../mesos";
import { link, param } from "../router";
import { Table, type TableColumn } from "../table";
import { Age, Empty, Failure, now, PageHead, Panel, Status, Tabs } from "../ui";

/** ends are how offers end, in the order in which they are shown; tone is the colour in the chart. */
const ends: { id: string; name: string; tone: string; mark: string; says: string }[] = [
  { id: "launched", name: "launched", tone: "ours", mark: "ok", says: "pods were placed in it" },
  { id: "declined", name: "declined", tone: "others", mark: "none", says: "no pod could use it" },
  { id: "expired", name: "expired", tone: "quiet", mark: "none", says: "it was held in vain, and given back" },
  { id: "rescinded", name: "rescinded", tone: "offered", mark: "warn", says: "Mesos took it back" },
  { id: "agent_gone", name: "agent gone", tone: "failed", mark: "bad", says: "its agent was lost" },
  { id: "disconnected", name: "disconnected", tone: "warned", mark: "warn", says: "the connection to the master was lost" },
];
const endOf = (id: string) => ends.find((e) => e.id === id) ?? { id, name: id, tone: "others", mark: "none", says: "" };

export default function Offers() {
  const held = usePoll<LiveOffer[]>(() => mesos("offers"), 2, "offers");
  const ended = usePoll<OfferHistory>(() => mesos("offers/ended"), 3, "ended");
  const view = param("view") || "ended";
  const problem = held.problem ?? ended.problem;
  if (!session.value?.mesos) return <><PageHead title="Offers" /><Empty title="This server knows no scheduler"><p>It shows Kubernetes only.</p></Empty></>;
  const h = ended.value;
  return (
    <>
      <PageHead title="Offers" note={h && !held.value?.length
        ? <>Mesos has offered nothing since {h.lastOffer ? <Age since={h.lastOffer} /> : "the scheduler began"}: what nobody waits for was given back.</>
        : "An offer is held for a few seconds. Pods are placed in it, or Mesos gets it back."} />
      {problem && !h && !held.value ? <Failure problem={problem} what="offers" /> : <>
        {h && <Chart history={h} />}
        <Tabs now={view} tabs={[["ended", "How they ended"], ["held", `Held now${held.value ? ` (${held.value.length})` : ""}`]]} href={(v) => link("/offers", { view: v === "ended" ? "" : v })} />
        {view === "held" ? <Held offers={held.value} history={h} /> : <Ended history={h} />}
      </>}
    </>
  );
}

/** Chart is how many offers ended how, in each minute of the last hour. */
function Chart({ history }: { history: OfferHistory }) {
  const seen = ends.filter((e) => history.totals[e.id]);
  const most = Math.max(1, ...history.minutes.map((m) => Object.values(m.ends).reduce((s, n) => s + n, 0)));
  const inHour = (id: string) => history.minutes.reduce((s, m) => s + (m.ends[id] ?? 0), 0);
  const width = 1000 / history.minutes.length;
  return (
    <Panel title="The last hour" note={`at most ${most.toLocaleString("en")} a minute`}>
      <svg class="minutes" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label={`Offers that ended in the last hour: ${ends.map((e) => `${e.name} ${inHour(e.id)}`).join(", ")}`}>
        <rect class="ground" y="99" width="1000" height="1" />
        {history.minutes.map((m, i) => {
          let at = 100;
          return <g key={m.at}>{ends.map((e) => {
            const height = ((m.ends[e.id] ?? 0) / most) * 96;
            at -= height;
            return height > 0 && <rect key={e.id} class={e.tone} x={i * width + 1} width={width - 2} y={at} height={height} />;
          })}</g>;
        })}
      </svg>
      <div class="axis muted small" aria-hidden="true"><span>an hour ago</span><span>30 min</span><span>now</span></div>
      <ul class="legend">
        {(seen.length ? seen : ends.slice(0, 3)).map((e) => <li key={e.id} title={e.says}><i class={e.tone} />{e.name} <b>{inHour(e.id).toLocaleString("en")}</b> <span class="small">of {(history.totals[e.id] ?? 0).toLocaleString("en")}</span></li>)}
        {(history.totals.invalid ?? 0) > 0 && <li><Status text="refused by Mesos" tone="bad" /> <b>{history.totals.invalid}</b></li>}
      </ul>
      {history.since && <p class="muted small">Counted since the scheduler became the leader, <Age since={history.since} /> ago.</p>}
    </Panel>
  );
}

const host = { id: "host", title: "Host", text: (o: { hostname: string }) => o.hostname, keep: 90 };
const resources = { id: "resources", title: "Resources", text: (o: { resources: string }) => offered(o.resources), keep: 50 };
const role = { id: "role", title: "Role", text: (o: { role: string }) => o.role, keep: 20 };
const ids = [
  { id: "offer", title: "Offer", text: (o: { id: string }) => o.id, mono: true, hidden: true },
  { id: "agent", title: "Agent", text: (o: { agent: string }) => o.agent, mono: true, hidden: true },
];

const left = (o: LiveOffer, at = now.peek()) => Math.max(0, (Date.parse(o.until) - at) / 1000);

const Countdown = ({ offer }: { offer: LiveOffer }) => {
  const all = Math.max(1, (Date.parse(offer.until) - Date.parse(offer.since)) / 1000);
  const rest = left(offer, now.value);
  return <span class="meter"><svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="rest" width="100" height="8" /><rect class="offered" width={(rest / all) * 100} height="8" /></svg><span>{span(rest)}</span></span>;
};

function Held({ offers, history }: { offers: LiveOffer[] | undefined; history: OfferHistory | undefined }) {
  const columns = useMemo((): TableColumn<LiveOffer>[] => [
    host, { id: "left", title: "Expires in", text: (o) => span(left(o)), width: 13, order: (o) => left(o), show: (o) => <Countdown offer={o} />, keep: 80 }, resources,
    { id: "age", title: "Age", text: (o) => span((now.peek() - Date.parse(o.since)) / 1000), width: 7, order: (o) => o.since, show: (o) => <Age since={o.since} />, keep: 30, numeric: true }, role,
    { id: "maintenance", title: "Maintenance", text: (o) => o.unavailable ?? "", keep: 10, sparse: true }, { id: "node", title: "Node", text: (o) => o.node ?? "", hidden: true }, ...ids,
  ], []);
  return <Table label="held offers" items={offers ?? []} columns={columns} keyOf={(o) => o.id} loading={!offers}
    empty={<Empty title={history?.lastOffer ? `Mesos has offered nothing since ${new Date(history.lastOffer).toLocaleTimeString()}` : "Mesos has offered nothing yet"}>
      <p>{history?.lastOffer ? "The scheduler asks for offers again as soon as a pod waits." : "Do the agents have free resources for our roles? See the page Mesos."}</p></Empty>} />;
}

const Pods = ({ offer }: { offer: EndedOffer }) => {
  const more = (offer.tasks ?? 0) - (offer.pods?.length ?? 0);
  return <>{offer.pods?.map((pod, i) => { const [ns, name] = podPath(pod); return <span key={pod}>{i > 0 && ", "}<a href={link(pageOf(core("pods"), ns, name))}>{name}</a></span>; })}{more > 0 && ` and ${count(more, "more task")}`}</>;
};

/** became says what became of an ended offer. */
const became = (o: EndedOffer) => o.refused || (o.end === "launched" ? (o.pods ?? []).join(", ") : [o.reason || endOf(o.end).says, o.refuseSeconds && `not again for ${span(o.refuseSeconds)}`].filter(Boolean).join("; "));

function Ended({ history }: { history: OfferHistory | undefined }) {
  const columns = useMemo((): TableColumn<EndedOffer>[] => [
    { id: "ended", title: "Ended", text: (o) => new Date(o.ended).toLocaleTimeString(), order: (o) => o.ended, keep: 88 },
    { id: "end", title: "How", text: (o) => (o.refused ? "refused" : endOf(o.end).name), show: (o) => <Status text={o.refused ? "refused" : endOf(o.end).name} tone={o.refused ? "bad" : endOf(o.end).mark} />, keep: 95 },
    { id: "became", title: "What became of it", text: became, show: (o) => (o.end === "launched" && !o.refused ? <Pods offer={o} /> : became(o)), keep: 100 }, host, resources,
    { id: "held", title: "Held for", text: (o) => span((Date.parse(o.ended) - Date.parse(o.arrived)) / 1000), order: (o) => Date.parse(o.ended) - Date.parse(o.arrived), keep: 30, numeric: true },
    role, ...ids,
  ], []);
  return <Table label="ended offers" items={history?.offers ?? []} columns={columns} keyOf={(o) => o.id} loading={!history} empty={<Empty title="No offer has ended yet" />} />;
}
