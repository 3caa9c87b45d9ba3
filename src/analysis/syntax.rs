//! What a node of a grammar means, whatever the language: a table from the grammar's kind ids to classes, made once.

use std::sync::OnceLock;

use super::language::Language;

/// The meaning of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the constructs")]
pub enum Class {
    /// Nothing that counts.
    Other,
    Comment,
    /// A string: one token, whatever it holds.
    Text,
    // control flow
    If,
    Elif,
    Else,
    For,
    While,
    Do,
    Loop,
    Try,
    Catch,
    Finally,
    Ternary,
    CompFor,
    /// `if` of a comprehension, and of a Python guard.
    IfClause,
    Switch,
    Case,
    Default,
    /// Python's and Rust's pattern of an arm.
    Pattern,
    With,
    Assert,
    Goto,
    Throw,
    Return,
    /// `break` and `continue`: they count when they name a label.
    Jump,
    Label,
    /// `?` of Rust.
    Question,
    Let,
    LetChain,
    /// A binary expression: logical when its operator is.
    Binary,
    Paren,
    /// `?.`
    OptionalChain,
    /// A pattern with a default value.
    DefaultPattern,
    Where,
    // tokens
    And,
    Or,
    Nullish,
    LogicalAssign,
    TokenIf,
    TokenElse,
    TokenFor,
    TokenWhile,
    TokenLoop,
    TokenQuestion,
    TokenEquals,
    // function-like
    /// A named function or method.
    Function,
    /// A function expression or arrow: a unit of its own.
    FunctionExpr,
    /// A closure that counts to the function around it, or, in Go, stands alone in a package-level `var`.
    Closure,
    ClosureParams,
    /// A function without a body.
    Signature,
    Params,
    Param,
    /// A block of statements.
    Block,
    Call,
    // definitions
    ClassDef,
    StructDef,
    EnumDef,
    InterfaceDef,
    TraitDef,
    ImplDef,
    ModuleDef,
    TypeDef,
    ConstDef,
    VarDef,
    Field,
    EnumMember,
    MacroDef,
    StaticBlock,
    EnumBody,
    // wrappers that pass documentation and export on
    Export,
    ExportItem,
    Wrapper,
    Attribute,
    Assignment,
    Pair,
    Object,
    Declarator,
    JsxExpression,
    TokenTree,
    /// Code inside a string.
    Interpolation,
    Statement,
}

/// Field ids.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are those of the grammars")]
pub struct Fields {
    pub name: u16,
    pub body: u16,
    pub alternative: u16,
    pub consequence: u16,
    pub value: u16,
    pub right: u16,
    pub parameters: u16,
    pub parameter: u16,
    pub function: u16,
}

/// The meanings of all kinds of one grammar.
pub struct Syntax {
    classes: Vec<Class>,
    statements: Vec<bool>,
    /// Ids of the fields that decide something; 0 where the grammar has none of that name.
    pub fields: Fields,
}

impl Syntax {
    /// The table of a language.
    #[must_use]
    pub fn of(language: Language) -> &'static Self {
        static TABLES: [OnceLock<Syntax>; 6] = [const { OnceLock::new() }; 6];
        TABLES[language as usize].get_or_init(|| Self::build(language))
    }

    /// What a kind id means.
    #[must_use]
    pub fn class(&self, kind: u16) -> Class {
        self.classes.get(usize::from(kind)).copied().unwrap_or(Class::Other)
    }

    /// Whether a kind is called a statement or a declaration by its grammar.
    #[must_use]
    pub fn is_statement(&self, kind: u16) -> bool {
        self.statements.get(usize::from(kind)).copied().unwrap_or(false)
    }

    fn build(language: Language) -> Self {
        let grammar = language.grammar();
        let count = u16::try_from(grammar.node_kind_count()).unwrap_or(u16::MAX);
        let classes = (0..count)
            .map(|id| {
                let kind = grammar.node_kind_for_id(id).unwrap_or("");
                let named = grammar.node_kind_is_named(id);
                if named { named_class(language, kind) } else { token_class(kind) }
            })
            .collect();
        let field = |name: &str| grammar.field_id_for_name(name).map_or(0, std::num::NonZeroU16::get);
        let statements = (0..count)
            .map(|id| {
                let kind = grammar.node_kind_for_id(id).unwrap_or("");
                let counts = kind.ends_with("_statement") || kind.ends_with("_declaration");
                counts && grammar.node_kind_is_named(id) && kind != "empty_statement"
            })
            .collect();
        let fields = Fields {
            name: field("name"),
            body: field("body"),
            alternative: field("alternative"),
            consequence: field("consequence"),
            value: field("value"),
            right: field("right"),
            parameters: field("parameters"),
            parameter: field("parameter"),
            function: field("function"),
        };
        Self { classes, statements, fields }
    }
}

fn token_class(kind: &str) -> Class {
    match kind {
        "&&" | "and" => Class::And,
        "||" | "or" => Class::Or,
        "??" => Class::Nullish,
        "&&=" | "||=" | "??=" => Class::LogicalAssign,
        "if" => Class::TokenIf,
        "else" => Class::TokenElse,
        "for" => Class::TokenFor,
        "while" => Class::TokenWhile,
        "loop" => Class::TokenLoop,
        "?" => Class::TokenQuestion,
        "=" => Class::TokenEquals,
        "?." => Class::OptionalChain,
        _ => Class::Other,
    }
}

fn named_class(language: Language, kind: &str) -> Class {
    match language {
        Language::Python => python(kind),
        Language::Rust => rust(kind),
        Language::Go => go(kind),
        Language::JavaScript | Language::TypeScript | Language::Tsx => ecmascript(kind),
    }
}

fn python(kind: &str) -> Class {
    match kind {
        "comment" => Class::Comment,
        "string" => Class::Text,
        "interpolation" => Class::Interpolation,
        "if_statement" => Class::If,
        "elif_clause" => Class::Elif,
        "else_clause" => Class::Else,
        "for_statement" => Class::For,
        "while_statement" => Class::While,
        "try_statement" => Class::Try,
        "except_clause" | "except_group_clause" => Class::Catch,
        "finally_clause" => Class::Finally,
        "conditional_expression" => Class::Ternary,
        "for_in_clause" => Class::CompFor,
        "if_clause" => Class::IfClause,
        "match_statement" => Class::Switch,
        "case_clause" => Class::Case,
        "case_pattern" => Class::Pattern,
        "with_statement" => Class::With,
        "assert_statement" => Class::Assert,
        "raise_statement" => Class::Throw,
        "return_statement" => Class::Return,
        "boolean_operator" => Class::Binary,
        "parenthesized_expression" => Class::Paren,
        "function_definition" => Class::Function,
        "lambda" => Class::Closure,
        "parameters" => Class::Params,
        "block" => Class::Block,
        "call" => Class::Call,
        "class_definition" => Class::ClassDef,
        "type_alias_statement" => Class::TypeDef,
        "decorated_definition" | "expression_statement" => Class::Wrapper,
        "assignment" => Class::Assignment,
        _ => Class::Other,
    }
}

fn rust(kind: &str) -> Class {
    match kind {
        "line_comment" | "block_comment" => Class::Comment,
        "string_literal" | "raw_string_literal" | "char_literal" => Class::Text,
        "if_expression" => Class::If,
        "else_clause" => Class::Else,
        "for_expression" => Class::For,
        "while_expression" => Class::While,
        "loop_expression" => Class::Loop,
        "match_expression" => Class::Switch,
        "match_arm" => Class::Case,
        "match_pattern" => Class::Pattern,
        "return_expression" => Class::Return,
        "break_expression" | "continue_expression" => Class::Jump,
        "label" => Class::Label,
        "try_expression" => Class::Question,
        "let_declaration" => Class::Let,
        "let_chain" => Class::LetChain,
        "binary_expression" => Class::Binary,
        "parenthesized_expression" => Class::Paren,
        "where_clause" => Class::Where,
        "function_item" => Class::Function,
        "function_signature_item" => Class::Signature,
        "closure_expression" => Class::Closure,
        "closure_parameters" => Class::ClosureParams,
        "parameters" => Class::Params,
        "block" => Class::Block,
        "call_expression" => Class::Call,
        "struct_item" | "union_item" => Class::StructDef,
        "enum_item" => Class::EnumDef,
        "trait_item" => Class::TraitDef,
        "impl_item" => Class::ImplDef,
        "mod_item" => Class::ModuleDef,
        "type_item" | "associated_type" => Class::TypeDef,
        "const_item" | "static_item" => Class::ConstDef,
        "field_declaration" => Class::Field,
        "enum_variant" => Class::EnumMember,
        "macro_definition" => Class::MacroDef,
        "attribute_item" => Class::Attribute,
        "token_tree" => Class::TokenTree,
        _ => Class::Other,
    }
}

fn go(kind: &str) -> Class {
    match kind {
        "comment" => Class::Comment,
        "interpreted_string_literal" | "raw_string_literal" | "rune_literal" => Class::Text,
        "if_statement" => Class::If,
        "for_statement" => Class::For,
        "expression_switch_statement" | "type_switch_statement" | "select_statement" => Class::Switch,
        "expression_case" | "type_case" | "communication_case" => Class::Case,
        "default_case" => Class::Default,
        "goto_statement" => Class::Goto,
        "return_statement" => Class::Return,
        "break_statement" | "continue_statement" => Class::Jump,
        "label_name" => Class::Label,
        "binary_expression" => Class::Binary,
        // A list of expressions lets the name of a variable through to its function.
        "parenthesized_expression" | "expression_list" => Class::Paren,
        "function_declaration" | "method_declaration" => Class::Function,
        "method_elem" => Class::Signature,
        "func_literal" => Class::Closure,
        "parameter_list" => Class::Params,
        "parameter_declaration" | "variadic_parameter_declaration" => Class::Param,
        "statement_list" => Class::Block,
        "call_expression" => Class::Call,
        "type_spec" | "type_alias" => Class::TypeDef,
        "const_spec" => Class::ConstDef,
        "var_spec" => Class::VarDef,
        "field_declaration" => Class::Field,
        "type_declaration" | "const_declaration" | "var_declaration" | "var_spec_list" => Class::Wrapper,
        _ => Class::Other,
    }
}

fn ecmascript(kind: &str) -> Class {
    match kind {
        "comment" | "html_comment" => Class::Comment,
        "string" | "template_string" | "regex" => Class::Text,
        "template_substitution" => Class::Interpolation,
        "if_statement" => Class::If,
        "else_clause" => Class::Else,
        "for_statement" | "for_in_statement" => Class::For,
        "while_statement" => Class::While,
        "do_statement" => Class::Do,
        "try_statement" => Class::Try,
        "catch_clause" => Class::Catch,
        "finally_clause" => Class::Finally,
        "ternary_expression" => Class::Ternary,
        "switch_statement" => Class::Switch,
        "switch_case" => Class::Case,
        "switch_default" => Class::Default,
        "with_statement" => Class::With,
        "throw_statement" => Class::Throw,
        "return_statement" => Class::Return,
        "break_statement" | "continue_statement" => Class::Jump,
        "statement_identifier" => Class::Label,
        "binary_expression" => Class::Binary,
        "parenthesized_expression"
        | "as_expression"
        | "satisfies_expression"
        | "non_null_expression"
        | "type_assertion" => Class::Paren,
        "optional_chain" => Class::OptionalChain,
        "assignment_pattern" | "object_assignment_pattern" => Class::DefaultPattern,
        "function_declaration" | "generator_function_declaration" | "method_definition" => Class::Function,
        "function_expression" | "generator_function" | "arrow_function" => Class::FunctionExpr,
        "function_signature" | "method_signature" | "abstract_method_signature" => Class::Signature,
        "formal_parameters" => Class::Params,
        "required_parameter" | "optional_parameter" => Class::Param,
        "statement_block" => Class::Block,
        "call_expression" => Class::Call,
        "class_declaration" | "abstract_class_declaration" | "class" => Class::ClassDef,
        "interface_declaration" => Class::InterfaceDef,
        "enum_declaration" => Class::EnumDef,
        "enum_body" => Class::EnumBody,
        "enum_assignment" => Class::EnumMember,
        "internal_module" | "module" => Class::ModuleDef,
        "type_alias_declaration" => Class::TypeDef,
        "field_definition" | "public_field_definition" | "property_signature" => Class::Field,
        "class_static_block" => Class::StaticBlock,
        "export_statement" => Class::Export,
        "export_specifier" => Class::ExportItem,
        "ambient_declaration" => Class::Wrapper,
        "lexical_declaration" | "variable_declaration" | "using_declaration" => Class::Declarator,
        "variable_declarator" => Class::VarDef,
        "decorator" => Class::Attribute,
        "assignment_expression" => Class::Assignment,
        "pair" => Class::Pair,
        "object" => Class::Object,
        "jsx_expression" => Class::JsxExpression,
        "expression_statement" => Class::Statement,
        "debugger_statement" | "import_statement" | "labeled_statement" => Class::Statement,
        _ => Class::Other,
    }
}
