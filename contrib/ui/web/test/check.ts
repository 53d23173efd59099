// The tests of the page's logic. contrib/ui's TestLogicOfThePage runs them in a browser.

const tests: [name: string, run: () => void | Promise<void>][] = [];

/** test adds a test. Its name tells the rule. */
export const test = (name: string, run: () => void | Promise<void>) => { tests.push([name, run]); };

/** same fails the test unless two values are written alike as JSON. */
export function same(got: unknown, want: unknown, of = "") {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)];
  if (g !== w) throw new Error(`${of && of + ": "}got ${g}, want ${w}`);
}

/** table checks a function of one argument. */
export function table<A, R>(run: (a: A) => R, rows: [A, R][]) {
  for (const [a, want] of rows) same(run(a), want, JSON.stringify(a));
}

/** results are the tests' names, each with what is wrong, or "". */
export async function results(): Promise<[string, string][]> {
  const out: [string, string][] = [];
  for (const [name, run] of tests) {
    try { await run(); out.push([name, ""]); } catch (error: any) { out.push([name, String(error.message ?? error)]); }
  }
  return out;
}
