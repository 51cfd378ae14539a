//! A Klipper tree, as a configuration names it.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A Klipper or Kalico tree: a directory as it is, or a git repository and what to check out of it.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Tree {
    /// A directory, as it is.
    Directory(PathBuf),
    /// A git repository.
    Git(GitTree),
}

/// A git repository and what to check out of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GitTree {
    /// A URL; or a directory, when it begins with `/`, `./`, `../` or `~/`.
    pub git: String,
    /// A branch, tag or commit; or "host": the commit that the printer's own Klipper runs, as its Moonraker says.
    /// Without it, what the repository itself has checked out.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
}

impl GitTree {
    /// What the commit is called that the printer's own Klipper runs.
    pub const HOST: &str = "host";

    /// Whether it is that one.
    pub fn is_of_host(&self) -> bool {
        self.reference.as_deref() == Some(Self::HOST)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a directory, or a table such as { git = \"URL\", ref = \"v0.13.0\" }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Directory(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Tree, A::Error> {
        GitTree::deserialize(MapAccessDeserializer::new(map)).map(Tree::Git)
    }
}
