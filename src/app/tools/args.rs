//! `outlast tools`: what can be typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where the tools are, and how they are told.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ToolPlace {
    /// Configuration file [default: ./config.toml when it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data directory of the server to ask [default: as for `outlast serve`]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// MCP servers to host when no server runs, from the `mcpServers` JSON of desktop clients; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) mcp_json: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is done.
#[derive(Debug, Subcommand)]
pub(crate) enum Tools {
    /// List the tools, in the order in which clients see them
    Ls(ToolPlace),
    /// Show one tool: description, schemas, version, needs, intents
    Show(Show),
    /// Call one tool and print what it answers: exit code 0, or 1 when it failed
    Call(Call),
}

impl Tools {
    pub(crate) fn place(&self) -> &ToolPlace {
        match self {
            Self::Ls(place) => place,
            Self::Show(show) => &show.place,
            Self::Call(call) => &call.place,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Its name, as clients see it
    #[arg(value_name = "TOOL")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: ToolPlace,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// Its name, as clients see it
    #[arg(value_name = "TOOL")]
    pub(crate) name: String,
    /// Arguments as a JSON object, `-` to read it from stdin [default: {}]
    #[arg(value_name = "JSON", conflicts_with = "arg")]
    pub(crate) arguments: Option<String>,
    /// One argument; its value is JSON where it is some, else text; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) arg: Vec<String>,
    #[command(flatten)]
    pub(crate) place: ToolPlace,
}
