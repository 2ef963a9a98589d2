//! The cluster that a member belongs to, kept in its directory: known before anything is taken from
//! that cluster, and for as long as the directory lives. A member with no log of its own would
//! otherwise follow whoever comes first, and then another.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use baton_protocol::ids::ClusterId;

use crate::member_dir::{read_text, write_text};

#[derive(Debug)]
pub(crate) struct Binding {
    path: PathBuf,
    known: Mutex<Option<ClusterId>>,
}

impl Binding {
    /// What `dir` is bound to: by what is in it, or as the broker's own directory says.
    pub fn open(dir: &Path, broker: Option<ClusterId>) -> io::Result<Binding> {
        let path = dir.join("cluster-id");
        let invalid = |text| io::Error::new(io::ErrorKind::InvalidData, text);
        let kept = match read_text(&path)? {
            None => None,
            Some(text) => match text.parse() {
                Ok(cluster) => Some(cluster),
                Err(_) => {
                    let text = format!("{}: `{text}` is no cluster id", path.display());
                    return Err(invalid(text));
                }
            },
        };
        if let (Some(kept), Some(broker)) = (kept, broker)
            && kept != broker
        {
            return Err(invalid(format!(
                "it belongs to cluster {kept}, the broker's data directory to cluster {broker}"
            )));
        }
        Ok(Binding {
            path,
            known: Mutex::new(kept.or(broker)),
        })
    }

    pub fn get(&self) -> Option<ClusterId> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds the directory to `cluster`, unless it is bound already. What it is bound to then.
    pub fn bind(&self, cluster: ClusterId) -> io::Result<ClusterId> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *known {
            return Ok(known);
        }
        write_text(&self.path, &cluster.to_string())?;
        *known = Some(cluster);
        Ok(cluster)
    }
}
