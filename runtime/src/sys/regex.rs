//! Regular expressions, by the C library: the one use of them is not worth a library of its own.

use std::ffi::CString;
use std::mem::MaybeUninit;

/// An extended regular expression of POSIX (regex(7)).
#[derive(Debug)]
pub struct Regex(libc::regex_t);

impl Regex {
    /// The expression that `pattern` means.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one sentence.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let text = CString::new(pattern).map_err(|_| "holds a NUL byte".to_owned())?;
        let mut regex = MaybeUninit::uninit();
        let flags = libc::REG_EXTENDED | libc::REG_NOSUB;
        // SAFETY: regcomp(3) writes to `regex`; the pattern is a C string that outlives the call.
        match unsafe { libc::regcomp(regex.as_mut_ptr(), text.as_ptr(), flags) } {
            // SAFETY: regcomp(3) has initialised it, since it succeeded.
            0 => Ok(Self(unsafe { regex.assume_init() })),
            code => Err(format!("{pattern:?} is no regular expression (regcomp(3) says {code})")),
        }
    }

    /// Whether it is found somewhere in `text`; never if that holds a NUL byte.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        let Ok(text) = CString::new(text) else { return false };
        // SAFETY: the expression is compiled, the text is a C string, and no matches are asked for.
        let found =
            unsafe { libc::regexec(&raw const self.0, text.as_ptr(), 0, std::ptr::null_mut(), 0) };
        found == 0
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: regcomp(3) made it, and nobody uses it any more.
        unsafe { libc::regfree(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_extended_and_found_anywhere() {
        for (pattern, text, expected) in [
            ("test-*", "test-1", true),
            ("^web-[0-9]+$", "web-12", true),
            ("^web-[0-9]+$", "web-12b", false),
            ("(a|b)c", "xbcx", true),
            ("", "anything", true),
        ] {
            assert_eq!(Regex::new(pattern).unwrap().is_in(text), expected, "{pattern} {text}");
        }
        assert!(Regex::new("(").is_err_and(|error| error.contains("no regular expression")));
        assert!(Regex::new("a\0").is_err());
    }
}
