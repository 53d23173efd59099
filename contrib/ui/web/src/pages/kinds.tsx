// Pages of several kinds that belong together: a tab each.
import { discover } from "../api";
import { usePoll, type Row } from "../live";
import { groups } from "../groups";
import { param, link, url } from "../router";
import { ResourceTable } from "../resourcetable";
import { Failure, Loading, PageHead, Tabs } from "../ui";

/** Kinds shows the kind that the URL names, or the first of its page's. */
export default function Kinds() {
  const path = url.value.pathname.replace(/(.)\/$/, "$1"), { title, note, kinds } = groups[path]!;
  const { value: known, problem } = usePoll(discover, 5, "kinds"); // it is asked until it has been answered
  const there = kinds.filter(([id]) => !known || known.some((r) => `${r.plural}.${r.group}` === id));
  const [id, name] = there.find(([k]) => k.split(".")[0] === param("kind")) ?? there[0] ?? kinds[0]!;
  const kind = known?.find((r) => `${r.plural}.${r.group}` === id);
  return (
    <>
      <PageHead title={title} note={note} />
      <Tabs now={id} tabs={there} href={(k) => link(path, { kind: k === kinds[0]![0] ? "" : k.split(".")[0]! })} />
      {kind ? <ResourceTable key={id} of={kind} name={name} more={more[id]} /> : problem ? <Failure problem={problem} what={name} />
        : known ? <Failure problem={{ code: 404, message: "The API server does not list this kind." }} what={name} /> : <Loading />}
    </>
  );
}

/** more are columns that say more than the API's own. */
const more: Record<string, { id: string; title: string; text: (r: Row) => string; keep?: number }[]> = {
  "services.": [{ id: "selects", title: "Selector", text: (r) => String(r.cells[6] ?? "").replace("<none>", ""), keep: 8 }],
};
