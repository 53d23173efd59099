// What the user may do, as the API server says it (SelfSubjectRulesReview), so that the page has only buttons that work.
import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { backOff, send, session } from "./api";

interface Rule { verbs: string[]; apiGroups?: string[]; resources?: string[]; resourceNames?: string[] }
interface Rules { incomplete: boolean; rules: Rule[] }

const known = new Map<string, { at: number; rules: Promise<Rules> }>();

function rulesOf(ns: string): Promise<Rules> {
  const old = known.get(ns);
  if (old && Date.now() - old.at < 60_000) return old.rules;
  const rules = send("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {
    apiVersion: "authorization.k8s.io/v1", kind: "SelfSubjectRulesReview", spec: { namespace: ns || "default" },
  }).then((r) => ({ incomplete: !!r.status?.incomplete, rules: r.status?.resourceRules ?? [] }));
  rules.catch(() => known.delete(ns));
  known.set(ns, { at: Date.now(), rules });
  return rules;
}

const has = (list: string[] | undefined, one: string) => !!list?.some((x) => x === "*" || x === one);

function covers(resources: string[] | undefined, one: string) {
  const [, sub] = one.split("/");
  return !!resources?.some((r) => r === "*" || r === "*/*" || r === one || (sub && r === `*/${sub}`));
}

const writes = new Set(["create", "update", "patch", "delete", "deletecollection"]);

/** own are groups of which everybody may create something: questions about oneself. */
const own = new Set(["authorization.k8s.io", "authentication.k8s.io"]);

/** useMayCreate tells whether the user may make anything at all in a namespace; undefined until the API server has answered. */
export function useMayCreate(ns: string): boolean | undefined {
  const rules = useRules(ns);
  if (session.value?.readOnly) return false;
  return !rules ? undefined : (rules.incomplete || rules.rules.some((r) => (has(r.verbs, "create") || has(r.verbs, "patch")) && !r.apiGroups?.every((g) => own.has(g))));
}

function useRules(ns: string): Rules | null {
  const rules = useMemo(() => signal<Rules | null>(null), [ns]);
  useEffect(() => {
    let timer = 0, failed = 0, over = false;
    const ask = () => { rulesOf(ns).then((r) => { rules.value = r; }, () => { if (!over) timer = window.setTimeout(ask, backOff(failed++, 5000)); }); };
    ask();
    return () => { over = true; clearTimeout(timer); };
  }, [ns]);
  return rules.value;
}

export type Can = (verb: string, resource: { group: string; plural: string }, name?: string) => boolean;

/** useRights tells what the user may do in a namespace. Until the API server has answered, nothing. */
export function useRights(ns: string): Can {
  const now = useRules(ns);
  return (verb, resource, name) => {
    if (!now) return false;
    if (session.value?.readOnly && writes.has(verb)) return false;
    return now.incomplete || now.rules.some((r) => has(r.verbs, verb) && has(r.apiGroups, resource.group) && covers(r.resources, resource.plural)
      && (!r.resourceNames?.length || (!!name && r.resourceNames.includes(name))));
  };
}
