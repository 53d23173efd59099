import { useMemo } from "preact/hooks";
import { discover, type Resource } from "../api";
import { usePoll, type Problem } from "../live";
import type { PageProps } from "../pages";
import { ResourceTable } from "../resourcetable";
import { link } from "../router";
import { Failure, Loading, PageHead } from "../ui";

/** useKind finds a kind by the parts of a path; undefined until it is known, null if there is none. */
export function useKind({ group, version, plural }: Record<string, string>): { kind: Resource | undefined | null; problem: Problem | null } {
  const { value: all, problem } = usePoll(discover, 5, "kinds");
  const kind = useMemo(() => {
    const found = all?.find((r) => (r.group || "core") === group && r.plural === plural);
    return found ? { ...found, version: version! } : all && null;
  }, [all, group, version, plural]);
  return { kind, problem };
}

export default function ResourcePage({ params }: PageProps) {
  const { kind, problem } = useKind(params);
  const head = <PageHead above={<a href={link("/resources")}>Any resource</a>} title={kind?.kind ?? params.plural} note={kind ? <span class="muted">{kind.group ? `${kind.group}/` : ""}{kind.version} · {kind.namespaced ? "in namespaces" : "of the cluster"}</span> : undefined} />;
  if (problem) return <>{head}<Failure problem={problem} what={params.plural!} /></>;
  if (kind === null) return <>{head}<Failure problem={{ code: 404, message: "The API server does not list this kind." }} what={params.plural!} /></>;
  if (!kind) return <>{head}<Loading /></>;
  return <>{head}<ResourceTable of={kind} name={kind.plural} /></>;
}
