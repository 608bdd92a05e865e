//! Calls of systemd's manager over D-Bus.
//!
//! Source: `org.freedesktop.systemd1(5)`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use zbus::message::Message;
use zbus::{Connection, DynamicType, OwnedObjectPath, Variant};

use super::{Instance, Property, Value};

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// How long systemd may take to answer, and to do a job.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bus on which an instance of systemd listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bus(Instance);

/// A property on its way.
type OnTheWire<'a> = (&'a str, Variant<'a>);

impl Bus {
    pub(super) fn of(instance: Instance) -> Self {
        Self(instance)
    }

    /// Starts a transient unit and waits until it has started. A failed one of the same name, which
    /// systemd keeps for people to see, gives way.
    pub(super) fn start(self, unit: &str, properties: &[Property]) -> Result<()> {
        zbus::block_on(async {
            let manager = self.connect().await?;
            let job = match manager.start(unit, properties).await {
                Err(error) if is(&error, "UnitExists") => {
                    let _there_may_be_none = manager.call("ResetFailedUnit", &(unit,)).await;
                    manager.start(unit, properties).await
                }
                started => started,
            };
            manager.finish(&job?).await
        })
    }

    /// Changes properties of a unit, until it ends.
    pub(super) fn set_properties(self, unit: &str, properties: &[Property]) -> Result<()> {
        const UNTIL_IT_ENDS: bool = true;
        zbus::block_on(async {
            let properties = on_the_wire(properties);
            let body = (unit, UNTIL_IT_ENDS, properties);
            self.connect().await?.call("SetUnitProperties", &body).await?;
            Ok(())
        })
    }

    /// Stops a unit, waits until it has stopped, and lets systemd forget it if it failed. One that is
    /// not there has stopped.
    pub(super) fn stop(self, unit: &str) -> Result<()> {
        zbus::block_on(async {
            let manager = self.connect().await?;
            match manager.call("StopUnit", &(unit, "replace")).await {
                Ok(reply) => manager.finish(&job(&reply)?).await?,
                Err(error) if is(&error, "NoSuchUnit") => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            let _mostly_it_did_not_fail = manager.call("ResetFailedUnit", &(unit,)).await;
            Ok(())
        })
    }

    /// Moves the process `pid` into `below` of a unit's cgroup.
    pub(super) fn attach(self, unit: &str, below: &str, pid: u32) -> Result<()> {
        zbus::block_on(async {
            let body = (unit, below, vec![pid]);
            self.connect().await?.call("AttachProcessesToUnit", &body).await?;
            Ok(())
        })
    }

    async fn connect(self) -> Result<Manager> {
        let builder = match self.0 {
            Instance::System => zbus::connection::Builder::system(),
            // Inside a user namespace we are somebody else, but the bus looks from outside.
            Instance::User(uid) => zbus::connection::Builder::session().user_id(uid),
        };
        let connection = builder.method_timeout(PATIENCE).build().await;
        Ok(Manager(connection.with_context(|| match self.0 {
            Instance::System => {
                "reach systemd on the system's bus (cure: systemctl start dbus, or \
                 --cgroup-manager cgroupfs)"
            }
            Instance::User(_) => {
                "reach systemd on the user's bus (cure: apt install dbus-user-session and log in \
                 again, with XDG_RUNTIME_DIR set; or --cgroup-manager cgroupfs)"
            }
        })?))
    }
}

struct Manager(Connection);

impl Manager {
    async fn call<B>(&self, method: &str, body: &B) -> zbus::Result<Message>
    where
        B: serde::Serialize + DynamicType,
    {
        self.0.call_method(Some(SERVICE), MANAGER, Some(MANAGER_INTERFACE), method, body).await
    }

    /// Starts a transient unit; the job that does it.
    async fn start(&self, unit: &str, properties: &[Property]) -> zbus::Result<OwnedObjectPath> {
        let others: Vec<(&str, Vec<OnTheWire<'_>>)> = Vec::new();
        let body = (unit, "replace", on_the_wire(properties), others);
        job(&self.call("StartTransientUnit", &body).await?)
    }

    /// Waits until a job is done. It is then gone, whatever came of it.
    async fn finish(&self, job: &OwnedObjectPath) -> Result<()> {
        const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            let body = ("org.freedesktop.systemd1.Job", "State");
            let asked = self.0.call_method(Some(SERVICE), job, Some(PROPERTIES), "Get", &body);
            match asked.await {
                Ok(_waiting_or_running) if Instant::now() < deadline => sleep(pause),
                Ok(_) => bail!("systemd did not do it within {} s", PATIENCE.as_secs()),
                Err(zbus::Error::InputOutput(error)) => return Err(anyhow!(error)),
                Err(_gone) => return Ok(()),
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

fn job(reply: &Message) -> zbus::Result<OwnedObjectPath> {
    reply.body().deserialize()
}

/// Whether systemd answered with this error of its own.
fn is(error: &zbus::Error, name: &str) -> bool {
    match error {
        zbus::Error::MethodError(full, ..) => {
            full.strip_prefix("org.freedesktop.systemd1.") == Some(name)
        }
        _ => false,
    }
}

fn on_the_wire(properties: &[Property]) -> Vec<OnTheWire<'_>> {
    properties.iter().map(|(name, value)| (name.as_str(), variant(value))).collect()
}

fn variant(value: &Value) -> Variant<'_> {
    match value {
        Value::Bool(flag) => Variant::new(*flag),
        Value::Int32(number) => Variant::new(*number),
        Value::Uint32(number) => Variant::new(*number),
        Value::Int64(number) => Variant::new(*number),
        Value::Uint64(number) => Variant::new(*number),
        Value::Double(number) => Variant::new(*number),
        Value::Text(text) => Variant::new(text.as_str()),
        Value::Texts(texts) => Variant::new(texts.clone()),
        Value::Bytes(bytes) => Variant::new(bytes.clone()),
        Value::Numbers(numbers) => Variant::new(numbers.clone()),
        Value::Pairs(pairs) => Variant::new(pairs.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_types_that_systemd_expects() {
        for (value, signature) in [
            (Value::Bool(true), "b"),
            (Value::Uint64(1), "t"),
            (Value::Text("a".into()), "s"),
            (Value::Texts(vec![]), "as"),
            (Value::Bytes(vec![1]), "ay"),
            (Value::Numbers(vec![1]), "au"),
            (Value::Pairs(vec![]), "a(ss)"),
            (Value::Pairs(vec![("a".into(), "b".into())]), "a(ss)"),
            (Value::Double(0.5), "d"),
        ] {
            assert_eq!(variant(&value).value_signature().to_string(), signature, "{value:?}");
        }
    }
}
