//! How people ask for output: tables, JSON, and templates as Go writes them.

pub(super) mod glob;
pub(super) mod human;
mod lexer;
mod table;
pub(super) mod template;

use anyhow::Result;
use serde_json::Value;

pub(super) use self::table::table;
use self::template::Template;

/// Prints `rows` in the form that `--format` names: `json` is one object a line, `table TEMPLATE` has a
/// heading, and anything else is a template for each row. `headings` are those of the fields.
///
/// # Errors
///
/// If the template is broken, or names a field that is not there.
pub(super) fn rows(format: &str, rows: &[Value], headings: &[(&str, &str)]) -> Result<String> {
    if format == "json" {
        return Ok(rows.iter().map(|row| format!("{row}\n")).collect());
    }
    let Some(columns) = format.strip_prefix("table ") else {
        let template = Template::parse(&unescape(format))?;
        let mut text = String::new();
        for row in rows {
            text.push_str(&template.run(row)?);
            text.push('\n');
        }
        return Ok(text);
    };
    let template = Template::parse(&unescape(columns.trim()))?;
    let heading = headings.iter().map(|(field, name)| ((*field).to_owned(), Value::from(*name)));
    let heading = Value::Object(heading.collect());
    let lines = std::iter::once(&heading).chain(rows).map(|row| template.run(row));
    let cells = lines.map(|line| Ok(line?.split('\t').map(str::to_owned).collect()));
    Ok(table(&cells.collect::<Result<Vec<Vec<String>>>>()?))
}

/// What a shell leaves of `\t` and `\n`.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_have_many_forms() {
        let all = [json!({"ID": "12", "Name": "a"}), json!({"ID": "3", "Name": "bb"})];
        let headings = [("ID", "IMAGE ID"), ("Name", "NAME")];
        for (format, expected) in [
            ("{{.ID}}", "12\n3\n"),
            ("{{.ID}}\\t{{.Name}}", "12\ta\n3\tbb\n"),
            ("json", "{\"ID\":\"12\",\"Name\":\"a\"}\n{\"ID\":\"3\",\"Name\":\"bb\"}\n"),
            ("table {{.ID}}\\t{{.Name}}", "IMAGE ID   NAME\n12         a\n3          bb\n"),
        ] {
            assert_eq!(rows(format, &all, &headings).unwrap(), expected, "{format}");
        }
        assert!(rows("{{.Nothing}}", &all, &headings).is_err());
    }
}
