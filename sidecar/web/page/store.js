/* What the page knows. Given: nothing. Hands on: one object that the other modules read and change. */

export const store = {
  status: null, receivedAt: 0,  // The last status object, and when it came (milliseconds of performance.now).
  run: new URLSearchParams(location.search).get("run"),  // The run asked for; null: the one last started.
  axis: "step", logLoss: false, metric: null,  // What the reader has chosen to see.
};
export const ended = (s) => ["finished", "failed", "lost"].includes(s.state);
