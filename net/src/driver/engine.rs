//! Turns the crank of the `Node`: does its actions, keeps its timers, hands out its outcomes.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use xorfs_store::BlockId;

use crate::driver::{Shared, clock};
use crate::identity::NodeId;
use crate::kad::{Key, Peer};
use crate::node::call::{Answer, Call};
use crate::node::{Action, CallId, Node, OpId, Outcome};
use crate::serve::Routes;
use crate::wire::RangeSum;

/// The node and who waits for what of it.
pub(crate) struct Engine {
    node: Node,
    calls: HashMap<CallId, AbortHandle>,
    waiters: HashMap<OpId, oneshot::Sender<Outcome>>,
    /// What the timer task sleeps until; none where it sleeps until it is woken.
    armed: Option<Instant>,
    stopped: bool,
}

impl Engine {
    pub(super) fn new(node: Node) -> Self {
        Self { node, calls: HashMap::new(), waiters: HashMap::new(), armed: None, stopped: false }
    }
}

/// An operation that was started. Dropped before its outcome, it is cancelled.
pub(super) struct Operation {
    shared: Arc<Shared>,
    op: OpId,
    outcome: oneshot::Receiver<Outcome>,
    ended: bool,
}

impl Operation {
    /// The outcome; `None` where the node stops first.
    pub(super) async fn outcome(mut self) -> Option<Outcome> {
        let outcome = (&mut self.outcome).await.ok();
        self.ended = true;
        outcome
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let op = self.op;
        self.shared.act(|node, _| node.cancel(op));
        self.shared.lock().waiters.remove(&op);
    }
}

impl Shared {
    /// Does something with the node, and then what the node wants done.
    pub(super) fn act<T>(self: &Arc<Self>, act: impl FnOnce(&mut Node, Instant) -> T) -> T {
        let mut engine = self.lock();
        let result = act(&mut engine.node, clock());
        self.pump(&mut engine);
        result
    }

    /// Starts an operation of the node.
    pub(super) fn operate(
        self: &Arc<Self>,
        start: impl FnOnce(&mut Node, Instant) -> OpId,
    ) -> Operation {
        let (sender, outcome) = oneshot::channel();
        let mut engine = self.lock();
        let op = start(&mut engine.node, clock());
        if !engine.stopped {
            engine.waiters.insert(op, sender);
        }
        self.pump(&mut engine);
        Operation { shared: Arc::clone(self), op, outcome, ended: false }
    }

    /// Reads from the node.
    pub(super) fn with_node<T>(&self, read: impl FnOnce(&Node) -> T) -> T {
        read(&self.lock().node)
    }

    /// Lets everybody who waits for an outcome know that there will be none.
    pub(super) fn stop_engine(&self) {
        let mut engine = self.lock();
        engine.stopped = true;
        engine.waiters.clear();
        engine.calls.clear();
    }

    fn pump(self: &Arc<Self>, engine: &mut Engine) {
        while let Some(action) = engine.node.poll_action() {
            match action {
                Action::Call { id, to, call } => {
                    let shared = Arc::clone(self);
                    let task =
                        self.tasks.spawn(async move { shared.carry_out(id, to, call).await });
                    engine.calls.insert(id, task);
                }
                Action::Cancel { id } => {
                    if let Some(task) = engine.calls.remove(&id) {
                        task.abort();
                    }
                }
                Action::Finished { op, outcome } => {
                    if let Some(waiter) = engine.waiters.remove(&op) {
                        // Whoever waited may have given up just now.
                        let _ = waiter.send(outcome);
                    }
                }
                Action::PeersChanged { joined } => {
                    tracing::debug!(joined, peers = engine.node.table().len(), "peers changed");
                    self.changes.send_modify(|change| *change += 1);
                }
            }
        }
        let due = engine.node.poll_timeout();
        if due.is_some_and(|due| engine.armed.is_none_or(|armed| due < armed)) {
            engine.armed = due;
            self.timer_wake.notify_one();
        }
    }

    async fn carry_out(self: Arc<Self>, id: CallId, to: Peer, call: Call) {
        let answer = self.request(&to, &call).await;
        match &answer {
            Ok(Answer::Refused(refusal)) => {
                tracing::debug!(peer = %to.id, call = call.name(), ?refusal, "request refused");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(peer = %to.id, call = call.name(), %error, "request failed");
            }
        }
        let mut engine = self.lock();
        engine.calls.remove(&id);
        engine.node.handle_answer(clock(), id, answer);
        self.pump(&mut engine);
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes for Arc<Shared> {
    fn own(&self) -> NodeId {
        self.own
    }

    fn closest(&self, key: &Key, asker: &NodeId) -> Vec<Peer> {
        self.with_node(|node| node.closest(key, asker))
    }

    fn is_close_to(&self, key: &Key) -> bool {
        self.with_node(|node| node.is_close_to(key))
    }

    fn expect(&self, id: BlockId, asker: &NodeId) -> bool {
        !self.fetches.is_under_way(&id) && self.expected.may_send(id, *asker, clock())
    }

    fn differing(&self, asker: &NodeId, bits: u8, sums: &[RangeSum]) -> Vec<u8> {
        self.differing_from(asker, bits, sums)
    }

    fn on_stored(&self, id: BlockId) {
        self.note_stored(id);
    }

    fn on_corrupt(&self, id: BlockId) {
        self.heal(id);
    }
}

/// Calls the node when its next timer is due.
pub(super) async fn run_timers(shared: Arc<Shared>) {
    loop {
        let due = {
            let mut engine = shared.lock();
            engine.armed = engine.node.poll_timeout();
            engine.armed
        };
        let woken = shared.timer_wake.notified();
        match due {
            None => woken.await,
            Some(due) if due <= clock() => shared.act(|node, now| node.handle_timeout(now)),
            Some(due) => tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(due.into()) => {}
            },
        }
    }
}
