// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Reads the API, and says what went wrong so that a reader can do something about it.

/** Failure is why an answer could not be had, and what to do. */
export class Failure extends Error {
  readonly status: number;
  readonly advice: string;
  readonly parameter: string | undefined;

  constructor(status: number, message: string, parameter?: string) {
    super(message);
    this.status = status;
    this.parameter = parameter;
    this.advice = advice(status, parameter);
  }
}

function advice(status: number, parameter?: string): string {
  if (status === 0) return "Is NetProbe running, and can this machine reach it? The page tries again by itself.";
  if (status === 401 || status === 403) return "This NetProbe asks for credentials: give them to the browser, or open the page through what adds them.";
  if (status === 400) return parameter ? `Change or clear the filter “${parameter}”.` : "Clear the filters.";
  if (status === 404) return "This NetProbe does not have it. Is its version older than the page's?";
  if (status === 429 || status === 503) return "NetProbe is busy or starting. The page tries again by itself.";
  return "NetProbe's log says more. The page tries again by itself.";
}

/** get reads a path of the API. It throws a Failure, or an AbortError when told to stop. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, { signal: signal ?? null, headers: { Accept: "application/json" } });
  } catch (err) {
    if (signal?.aborted) throw err;
    throw new Failure(0, "NetProbe does not answer.");
  }
  const text = await response.text();
  let body: any;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Failure(response.status, `${path} answered ${response.status}, and not with JSON.`);
  }
  if (!response.ok) {
    const e = body?.error ?? {};
    throw new Failure(response.status, e.message ?? `${path} answered ${response.status}.`, e.parameter);
  }
  return body as T;
}
