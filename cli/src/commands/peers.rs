//! `xorfs peers`: the other nodes that are known.

use crate::api::types::PeerRow;
use crate::attach::with_locked_node;
use crate::home::Home;
use crate::output::{Output, table};

pub(crate) async fn run(home: &Home, out: Output) -> anyhow::Result<()> {
    let peers = with_locked_node(home, async |client| client.peers().await).await?;
    out.value(&peers, |peers| text(peers))
}

fn text(peers: &[PeerRow]) -> String {
    if peers.is_empty() {
        return "no other node is known; join one with `xorfs daemon --join HOST:PORT`".to_owned();
    }
    let heading = ["NODE", "ADDRESS", "STATE", "ROUND TRIP", "LAST SEEN"].map(str::to_owned);
    let mut rows = vec![heading.to_vec()];
    rows.extend(peers.iter().map(|peer| {
        let state = if peer.connected { "connected" } else { "idle" };
        vec![
            peer.id.chars().take(16).collect(),
            peer.address.clone(),
            state.to_owned(),
            peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms")).unwrap_or_default(),
            format!("{:.0} s ago", peer.last_seen_s),
        ]
    }));
    table(&rows, &[false, false, false, true, true])
}
