//! The keyring of a running node: open or locked, in memory and on disk.
//!
//! A keyring with a passphrase starts locked unless the passphrase was given. While it is locked
//! the node has no key of any volume: it serves blocks, and refuses what needs a key with a
//! `Failure` that says what to do. Invariant: memory changes only after the file did.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use xorfs_store::{
    Access, Keyring, KeyringError, Passphrase, SealedKeyring, StoredKeyring, VolumeSecret,
};

use crate::exit::Failure;

/// The volume that every home has.
const FIRST_VOLUME: &str = "main";

enum State {
    Open(Keyring),
    Locked(SealedKeyring),
}

/// The keyring.
pub(super) struct Keys {
    state: Mutex<State>,
    /// What `state` says, for those who must not wait while the keyring is written to disk.
    is_locked: AtomicBool,
    /// Held while a passphrase is looked at, which takes much memory, and taken before `state`.
    guessing: Mutex<()>,
    file: PathBuf,
}

impl Keys {
    /// Reads the keyring, and opens a sealed one where the passphrase is given. A new one starts
    /// with the volume `main`.
    pub(super) fn open(file: &Path, passphrase: Option<&Passphrase>) -> Result<Self, KeyringError> {
        let state = match (StoredKeyring::open(file)?, passphrase) {
            (StoredKeyring::Open(mut keyring), _) => {
                if !file.exists() {
                    keyring.add(FIRST_VOLUME, Access::Owner(VolumeSecret::generate()))?;
                    keyring.save(file)?;
                }
                State::Open(keyring)
            }
            (StoredKeyring::Sealed(sealed), Some(passphrase)) => {
                State::Open(sealed.unlock(passphrase)?)
            }
            (StoredKeyring::Sealed(sealed), None) => State::Locked(sealed),
        };
        let is_locked = AtomicBool::new(matches!(state, State::Locked(_)));
        let (state, guessing) = (Mutex::new(state), Mutex::new(()));
        Ok(Self { state, is_locked, guessing, file: file.to_owned() })
    }

    /// Whether the keys are out of reach. Waits for nobody.
    pub(super) fn is_locked(&self) -> bool {
        self.is_locked.load(Ordering::Acquire)
    }

    /// Whether the file is sealed under a passphrase.
    pub(super) fn has_passphrase(&self) -> bool {
        match &*self.lock_state() {
            State::Open(keyring) => keyring.has_passphrase(),
            State::Locked(_) => true,
        }
    }

    /// Looks at the keyring; refused while it is locked.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Keyring) -> T) -> Result<T, Failure> {
        match &*self.lock_state() {
            State::Open(keyring) => Ok(look(keyring)),
            State::Locked(_) => Err(locked()),
        }
    }

    /// Changes the keyring, on disk and then in memory; refused while it is locked.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Keyring) -> Result<T, KeyringError>,
    ) -> anyhow::Result<T> {
        let mut state = self.lock_state();
        let State::Open(keyring) = &mut *state else { return Err(locked().into()) };
        let mut changed = keyring.clone();
        let done = change(&mut changed)?;
        if changed != *keyring {
            changed.save(&self.file)?;
            *keyring = changed;
        }
        Ok(done)
    }

    /// Opens a locked keyring; false where it is open already. Slow on purpose.
    pub(super) fn unlock(&self, passphrase: &Passphrase) -> Result<bool, KeyringError> {
        let _one_at_a_time = self.guessing.lock().unwrap_or_else(PoisonError::into_inner);
        let sealed = match &*self.lock_state() {
            State::Open(_) => return Ok(false),
            State::Locked(sealed) => sealed.clone(),
        };
        let keyring = sealed.unlock(passphrase)?;
        self.enter(&mut self.lock_state(), State::Open(keyring));
        Ok(true)
    }

    /// Forgets the keys; false where they were forgotten already.
    pub(super) fn lock(&self) -> anyhow::Result<bool> {
        let _no_new_passphrase = self.guessing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock_state();
        let State::Open(keyring) = &*state else { return Ok(false) };
        let text = "the keyring has no passphrase, so locking it would keep nobody out; set one \
                    with `xorfs passphrase`";
        let sealed = keyring.lock()?.ok_or_else(|| Failure::refused(text))?;
        self.enter(&mut state, State::Locked(sealed));
        Ok(true)
    }

    /// Sets another passphrase, or with `None` takes it off; `current` is what it is now, if
    /// there is one. A locked keyring stays locked. Slow on purpose.
    pub(super) fn set_passphrase(
        &self,
        current: Option<&Passphrase>,
        new: Option<&Passphrase>,
    ) -> anyhow::Result<()> {
        let _one_at_a_time = self.guessing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut keyring, was_locked) = match &*self.lock_state() {
            State::Open(keyring) => (keyring.clone(), None),
            State::Locked(sealed) => (Keyring::default(), Some(sealed.clone())),
        };
        let current = || current.ok_or_else(|| Failure::usage("the present passphrase is missing"));
        if let Some(sealed) = &was_locked {
            keyring = sealed.unlock(current()?)?;
        } else if keyring.has_passphrase() && !keyring.is_passphrase(current()?) {
            return Err(KeyringError::WrongPassphrase.into());
        }
        // Derived before the keyring is held, so that nobody waits for it meanwhile.
        let mut fresh = Keyring::default();
        match new {
            Some(passphrase) => fresh.set_passphrase(passphrase),
            None => fresh.remove_passphrase(),
        }
        let mut state = self.lock_state();
        if let State::Open(now) = &*state {
            keyring = now.clone();
        }
        keyring.seal_as(&fresh);
        keyring.save(&self.file)?;
        let next = match (was_locked.is_some(), keyring.lock()?) {
            (true, Some(sealed)) => State::Locked(sealed),
            _ => State::Open(keyring),
        };
        self.enter(&mut state, next);
        Ok(())
    }

    fn enter(&self, state: &mut State, next: State) {
        self.is_locked.store(matches!(next, State::Locked(_)), Ordering::Release);
        *state = next;
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement, so a panic elsewhere leaves nothing behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What everything that needs a key is told while the keyring is locked.
pub(crate) fn locked() -> Failure {
    Failure::refused("the keyring is locked: run `xorfs unlock`, or give --passphrase-file FILE")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Exit, classify};

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned()).unwrap()
    }

    #[test]
    fn a_locked_keyring_gives_nothing_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyring");
        let keys = Keys::open(&file, None).unwrap();
        let secret = keys.read(|keyring| keyring.access("main").cloned()).unwrap();
        assert!(keys.lock().is_err(), "without a passphrase nothing is locked");

        keys.set_passphrase(None, Some(&passphrase("one"))).unwrap();
        assert!(!keys.is_locked() && keys.has_passphrase());
        assert!(keys.lock().unwrap() && !keys.lock().unwrap());
        let refused = keys.read(|_| ()).unwrap_err();
        assert_eq!((refused.exit, refused.message.contains("xorfs unlock")), (Exit::Refused, true));
        assert!(keys.change(|keyring| Ok(keyring.remove("main"))).is_err());
        let wrong = keys.unlock(&passphrase("two")).unwrap_err();
        assert_eq!(classify(&wrong.into()), Exit::Refused);

        // Changed while it is locked, it stays so.
        assert!(keys.set_passphrase(Some(&passphrase("two")), None).is_err());
        assert!(keys.set_passphrase(None, None).is_err());
        keys.set_passphrase(Some(&passphrase("one")), Some(&passphrase("two"))).unwrap();
        assert!(keys.is_locked() && Keys::open(&file, None).unwrap().is_locked());
        assert!(keys.unlock(&passphrase("two")).unwrap());
        assert_eq!(keys.read(|keyring| keyring.access("main").cloned()).unwrap(), secret);

        keys.set_passphrase(Some(&passphrase("two")), None).unwrap();
        assert!(!Keys::open(&file, None).unwrap().has_passphrase());
    }
}
