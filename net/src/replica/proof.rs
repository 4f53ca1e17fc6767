//! Proofs that a node has a block: a hash over the block that only who reads it can make.
//!
//! The hash is keyed by a nonce of the verifier and by the prover's id, so a proof cannot be
//! kept for later nor be taken from another holder. The verifier has the block itself and makes
//! the same hash. What is deliberately not proved: that the block is on the prover's own disk; a
//! prover may fetch it from elsewhere in time, at the price of the transfer.

use xorfs_store::{Block, BlockId};

use crate::identity::NodeId;
use crate::node::call::{Answer, CallError, Verdict};
use crate::wire::{Name, Nonce};

/// Domain of the keys, so that no proof is a hash with another meaning.
const CONTEXT: &str = "xorfs 2026-11 v1 possession";

/// The proof that `prover` has a block.
pub(crate) fn prove(nonce: &Nonce, prover: &NodeId, block: &Block) -> Name {
    let mut key = blake3::Hasher::new_derive_key(CONTEXT);
    key.update(nonce).update(prover.as_bytes());
    *blake3::keyed_hash(key.finalize().as_bytes(), block.bytes()).as_bytes()
}

/// What `prover` proved of `ids`; `read` gives the verifier's own copies.
///
/// # Errors
/// `Wrong` where a proof is not the one that the block gives: no honest peer sends that.
pub(crate) fn check(
    nonce: &Nonce,
    prover: &NodeId,
    ids: &[BlockId],
    proofs: &[Option<Name>],
    read: impl Fn(&BlockId) -> Option<Block>,
) -> Result<Answer, CallError> {
    let verdicts = ids.iter().zip(proofs).map(|(id, proof)| match (proof, read(id)) {
        (None, _) => Ok(Verdict::Lacking),
        (Some(_), None) => Ok(Verdict::Unknown),
        (Some(proof), Some(block)) if *proof == prove(nonce, prover, &block) => Ok(Verdict::Proved),
        (Some(_), Some(_)) => Err(CallError::Wrong),
    });
    verdicts.collect::<Result<_, _>>().map(Answer::Proved)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_proof_is_good_for_one_block_one_nonce_and_one_prover() {
        let block = Block::new(Bytes::from_static(b"a block")).unwrap();
        let other = Block::new(Bytes::from_static(b"another")).unwrap();
        let (one, two) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let verdict = |proof| {
            let read = |_: &BlockId| Some(block.clone());
            check(&[7; 16], &one, &[block.id()], &[proof], read).map_err(|error| match error {
                CallError::Wrong => (),
                other => panic!("{other}"),
            })
        };
        let good = verdict(Some(prove(&[7; 16], &one, &block)));
        assert!(matches!(good, Ok(Answer::Proved(verdicts)) if verdicts == [Verdict::Proved]));
        let lacking = verdict(None);
        assert!(matches!(lacking, Ok(Answer::Proved(verdicts)) if verdicts == [Verdict::Lacking]));
        assert!(verdict(Some(prove(&[8; 16], &one, &block))).is_err());
        assert!(verdict(Some(prove(&[7; 16], &two, &block))).is_err());
        assert!(verdict(Some(prove(&[7; 16], &one, &other))).is_err());
        let unknown = check(&[7; 16], &one, &[block.id()], &[Some([0; 32])], |_| None);
        assert!(matches!(unknown, Ok(Answer::Proved(verdicts)) if verdicts == [Verdict::Unknown]));
    }
}
