# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The queries behind an inventory: one for each kind of object, gated by the server's version.

Each returns the key of an object and its definition as jsonb; nulls are stripped, so an attribute that is absent and
one that is null are the same. The parts are constants of this file, never data; the parameters are ``excluded`` and
``schemas``.
"""

from __future__ import annotations

from collections.abc import Callable


def acl(column: str, kind: str, owner: str) -> str:
    # A restore writes no GRANT for what is the default anyway: an explicit default comes back as NULL.
    return (
        f"ARRAY(SELECT entry::text FROM unnest(coalesce({column}, acldefault('{kind}', {owner}))) AS entry"
        f' ORDER BY entry::text COLLATE "C")'
    )


def _not_member(catalog: str, oid: str) -> str:
    return (
        f"NOT EXISTS (SELECT FROM pg_depend AS member WHERE member.classid = 'pg_catalog.{catalog}'::regclass"
        f" AND member.objid = {oid} AND member.deptype = 'e')"
    )


def _schema_filter(schema: str) -> str:
    return (
        f"{schema} <> ALL (%(excluded)s) AND {schema} NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
        f" AND {schema} !~ '^pg_(temp|toast_temp)_'"
        f" AND (%(schemas)s::text[] IS NULL OR {schema} = ANY (%(schemas)s::text[]))"
    )


def _row(key: str, **attributes: str) -> str:
    pairs = ", ".join(f"'{name}', {expression}" for name, expression in attributes.items())
    return f"SELECT {key} AS object, jsonb_strip_nulls(jsonb_build_object({pairs})) AS definition"


def _quoted(*names: str) -> str:
    return " || '.' || ".join(f"quote_ident({name})" for name in names)


def _options(column: str) -> str:
    # 15.20 marks new columns with a hidden option that its own pg_dump leaves out.
    return (
        f'(SELECT jsonb_agg(option ORDER BY option COLLATE "C") FROM unnest({column}) AS option'
        f" WHERE option NOT LIKE 'pg\\_attver=%%')"
    )


def _comment(oid: str, catalog: str) -> str:
    return f"obj_description({oid}, '{catalog}')"


def _owner(column: str) -> str:
    return f"pg_get_userbyid({column})"


def _relation(oid: str) -> str:
    """The quoted, qualified name of a relation by its OID."""
    return (
        "(SELECT quote_ident(rn.nspname) || '.' || quote_ident(rc.relname) FROM pg_class AS rc"
        f" JOIN pg_namespace AS rn ON rn.oid = rc.relnamespace WHERE rc.oid = {oid})"
    )


def _schemas(version: int) -> str:
    return (
        _row(
            "'schema ' || quote_ident(n.nspname)",
            owner=_owner("n.nspowner"),
            acl=acl("n.nspacl", "n", "n.nspowner"),
            comment=_comment("n.oid", "pg_namespace"),
        )
        + f" FROM pg_namespace AS n WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_namespace', 'n.oid')}"
    )


def _extensions(version: int) -> str:
    # The owner of an extension is whoever restored it: no dump carries it.
    return (
        _row(
            "'extension ' || quote_ident(e.extname)",
            version="e.extversion",
            schema_of_objects="n.nspname",
            comment=_comment("e.oid", "pg_extension"),
        )
        + " FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace"
    )


def _types(version: int) -> str:
    attributes = (
        "(SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)"
        " FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)"
    )
    subtype = (
        "(SELECT jsonb_build_object('subtype', format_type(r.rngsubtype, NULL),"
        " 'collation', CASE WHEN r.rngcollation <> 0 THEN r.rngcollation::regcollation::text END,"
        " 'operator_class', (SELECT quote_ident(cn.nspname) || '.' || quote_ident(o.opcname) FROM pg_opclass AS o"
        " JOIN pg_namespace AS cn ON cn.oid = o.opcnamespace WHERE o.oid = r.rngsubopc),"
        " 'canonical', nullif(r.rngcanonical::oid, 0)::regproc::text,"
        " 'difference', nullif(r.rngsubdiff::oid, 0)::regproc::text,"
        " 'multirange', r.rngmultitypid::regtype::text) FROM pg_range AS r WHERE r.rngtypid = t.oid)"
    )
    return (
        _row(
            f"'type ' || {_quoted('n.nspname', 't.typname')}",
            schema="n.nspname",
            form="CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite'"
            " WHEN 'r' THEN 'range' WHEN 'b' THEN 'base' ELSE 'shell' END",
            labels="(SELECT jsonb_agg(l.enumlabel ORDER BY l.enumsortorder) FROM pg_enum AS l"
            " WHERE l.enumtypid = t.oid)",
            base="CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END",
            not_null="CASE WHEN t.typtype = 'd' THEN t.typnotnull END",
            default="CASE WHEN t.typtype = 'd' THEN coalesce(pg_get_expr(t.typdefaultbin, 0), t.typdefault) END",
            collation="CASE WHEN t.typtype = 'd' AND t.typcollation <> 0 AND t.typcollation IS DISTINCT FROM"
            " (SELECT b.typcollation FROM pg_type AS b WHERE b.oid = t.typbasetype)"
            " THEN t.typcollation::regcollation::text END",
            attributes=f"CASE WHEN t.typtype = 'c' THEN {attributes} END",
            range=f"CASE WHEN t.typtype = 'r' THEN {subtype} END",
            input="CASE WHEN t.typtype = 'b' THEN t.typinput::regproc::text END",
            owner=_owner("t.typowner"),
            acl=acl("t.typacl", "T", "t.typowner"),
            comment=f"coalesce({_comment('t.oid', 'pg_type')}, {_comment('nullif(t.typrelid, 0)', 'pg_class')})",
        )
        + " FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace"
        " LEFT JOIN pg_class AS c ON c.oid = t.typrelid"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_type', 't.oid')}"
        " AND (c.oid IS NULL OR c.relkind = 'c') AND t.typtype <> 'm'"
        " AND NOT EXISTS (SELECT FROM pg_type AS element WHERE element.typarray = t.oid)"
    )


def _domain_constraints(version: int) -> str:
    # NOT NULL is a flag of the domain: since 17 it is also a constraint, under a generated name.
    return (
        _row(
            f"'domain constraint ' || {_quoted('n.nspname', 't.typname', 'k.conname')}",
            schema="n.nspname",
            base="format_type(t.typbasetype, t.typtypmod)",
            definition="regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '')",
            validated="k.convalidated",
            comment=_comment("k.oid", "pg_constraint"),
        )
        + " FROM pg_constraint AS k JOIN pg_type AS t ON t.oid = k.contypid"
        " JOIN pg_namespace AS n ON n.oid = t.typnamespace"
        f" WHERE k.contype = 'c' AND {_schema_filter('n.nspname')} AND {_not_member('pg_type', 't.oid')}"
    )


_RELATION_KINDS = (
    "CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table '"
    " ELSE 'table ' END"
)


def _relations(version: int) -> str:
    foreign = (
        "(SELECT jsonb_build_object('server', s.srvname, 'options',"
        ' ARRAY(SELECT o FROM unnest(f.ftoptions) AS o ORDER BY o COLLATE "C"))'
        " FROM pg_foreign_table AS f JOIN pg_foreign_server AS s ON s.oid = f.ftserver WHERE f.ftrelid = c.oid)"
    )
    return (
        _row(
            f"{_RELATION_KINDS} || {_quoted('n.nspname', 'c.relname')}",
            schema="n.nspname",
            table="c.relname",
            persistence="CASE c.relpersistence WHEN 'p' THEN 'permanent' WHEN 'u' THEN 'unlogged' ELSE 'temporary' END",
            row_security="CASE WHEN c.relkind IN ('r', 'p') THEN c.relrowsecurity END",
            force_row_security="CASE WHEN c.relkind IN ('r', 'p') THEN c.relforcerowsecurity END",
            options=_options("c.reloptions"),
            toast_options="(SELECT " + _options("toast.reloptions") + " FROM pg_class AS toast"
            " WHERE toast.oid = c.reltoastrelid)",
            partition_key="CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END",
            partition_bound="CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END",
            parents=f"(SELECT jsonb_agg({_relation('i.inhparent')} ORDER BY i.inhseqno) FROM pg_inherits AS i"
            " WHERE i.inhrelid = c.oid)",
            detach_pending="(SELECT nullif(bool_or(i.inhdetachpending), false) FROM pg_inherits AS i"
            " WHERE i.inhrelid = c.oid)",
            of_type="nullif(c.reloftype, 0)::regtype::text",
            replica_identity="CASE WHEN c.relkind IN ('r', 'p') THEN CASE c.relreplident WHEN 'd' THEN 'default'"
            " WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full' ELSE 'index' END END",
            access_method="(SELECT am.amname FROM pg_am AS am WHERE am.oid = c.relam)",
            tablespace="(SELECT s.spcname FROM pg_tablespace AS s WHERE s.oid = c.reltablespace)",
            definition="CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END",
            populated="CASE WHEN c.relkind = 'm' THEN c.relispopulated END",
            foreign=f"CASE WHEN c.relkind = 'f' THEN {foreign} END",
            owner=_owner("c.relowner"),
            acl=acl("c.relacl", "r", "c.relowner"),
            comment=_comment("c.oid", "pg_class"),
        )
        + " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        f" WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_schema_filter('n.nspname')}"
        f" AND {_not_member('pg_class', 'c.oid')}"
    )


def _columns(version: int) -> str:
    # NOT NULL is told by the flag and never by the constraint, whose name 18 generates from names at that time. Only
    # what the flag cannot say (not validated yet, not inherited) is taken from the constraint.
    not_null = "a.attnotnull"
    if version >= 180000:
        not_null = (
            "CASE WHEN a.attnotnull THEN coalesce((SELECT CASE WHEN NOT k.convalidated THEN to_jsonb('not valid'::text)"
            " WHEN k.connoinherit THEN to_jsonb('no inherit'::text) END FROM pg_constraint AS k"
            " WHERE k.conrelid = c.oid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]), 'true'::jsonb)"
            " ELSE 'false'::jsonb END"
        )
    return (
        _row(
            f"'column ' || {_quoted('n.nspname', 'c.relname', 'a.attname')}",
            schema="n.nspname",
            table="c.relname",
            column="a.attname",
            type="format_type(a.atttypid, a.atttypmod)",
            collation="CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END",
            not_null=not_null,
            default="pg_get_expr(d.adbin, d.adrelid)",
            generated="CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END",
            identity="CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END",
            statistics="nullif(a.attstattarget, -1)",
            storage="CASE WHEN a.attstorage <> t.typstorage THEN CASE a.attstorage WHEN 'p' THEN 'plain'"
            " WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END END",
            compression="CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END",
            options=_options("a.attoptions"),
            foreign_options=_options("a.attfdwoptions"),
            acl='(SELECT jsonb_agg(entry::text ORDER BY entry::text COLLATE "C") FROM unnest(a.attacl) AS entry)',
            comment="col_description(c.oid, a.attnum)",
        )
        + " FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_type AS t ON t.oid = a.atttypid"
        " LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
        f" AND {_schema_filter('n.nspname')} AND {_not_member('pg_class', 'c.oid')}"
    )


def _constraints(version: int) -> str:
    columns = (
        "(SELECT jsonb_agg(a.attname ORDER BY place) FROM unnest(k.{column}) WITH ORDINALITY AS key (number, place)"
        " JOIN pg_attribute AS a ON a.attrelid = k.{relation} AND a.attnum = key.number)"
    )
    return (
        _row(
            f"'constraint ' || {_quoted('n.nspname', 'c.relname', 'k.conname')}",
            schema="n.nspname",
            table="c.relname",
            form="CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'f' THEN 'foreign key'"
            " WHEN 'c' THEN 'check' WHEN 'x' THEN 'exclusion' ELSE 'trigger' END",
            columns=columns.format(column="conkey", relation="conrelid"),
            references=f"CASE WHEN k.contype = 'f' THEN {_relation('k.confrelid')} END",
            definition="CASE WHEN k.contype <> 't'"
            " THEN regexp_replace(pg_get_constraintdef(k.oid), '( NOT VALID| NOT ENFORCED)+$', '') END",
            validated="k.convalidated",
            enforced="k.conenforced" if version >= 180000 else "true",
            no_inherit="CASE WHEN k.contype = 'c' THEN k.connoinherit END",
            # DISABLE TRIGGER ALL switches a foreign key off without a trace in the constraint itself.
            triggers="CASE WHEN k.contype = 'f' THEN (SELECT jsonb_agg(DISTINCT t.tgenabled::text) FROM pg_trigger AS t"
            " WHERE t.tgconstraint = k.oid) END",
            comment=_comment("k.oid", "pg_constraint"),
        )
        + " FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        f" WHERE k.contype <> 'n' AND {_schema_filter('n.nspname')} AND {_not_member('pg_class', 'c.oid')}"
        # A foreign key to a partitioned table has one more constraint a partition of the target; their names are
        # generated and they follow their parent.
        " AND NOT (k.contype = 'f' AND k.conparentid <> 0 AND EXISTS (SELECT FROM pg_constraint AS p"
        " WHERE p.oid = k.conparentid AND p.conrelid = k.conrelid))"
    )


def _indexes(version: int) -> str:
    statistics = (
        "(SELECT jsonb_object_agg(a.attnum, a.attstattarget) FROM pg_attribute AS a"
        " WHERE a.attrelid = c.oid AND a.attnum > 0 AND coalesce(a.attstattarget, -1) <> -1)"
    )
    return (
        _row(
            f"'index ' || {_quoted('n.nspname', 'c.relname')}",
            schema="n.nspname",
            table="tc.relname",
            method="am.amname",
            definition="pg_get_indexdef(c.oid)",
            valid="x.indisvalid AND x.indisready AND x.indislive",
            clustered="x.indisclustered",
            replica_identity="nullif(x.indisreplident, false)",
            constraint="(SELECT k.conname FROM pg_constraint AS k WHERE k.conindid = c.oid"
            " AND k.contype IN ('p', 'u', 'x') AND k.conrelid = x.indrelid)",
            parent=f"(SELECT {_relation('i.inhparent')} FROM pg_inherits AS i WHERE i.inhrelid = c.oid)",
            statistics=statistics,
            tablespace="(SELECT s.spcname FROM pg_tablespace AS s WHERE s.oid = c.reltablespace)",
            comment=_comment("c.oid", "pg_class"),
        )
        + " FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_class AS tc ON tc.oid = x.indrelid"
        " JOIN pg_am AS am ON am.oid = c.relam"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_class', 'x.indrelid')}"
        f" AND {_not_member('pg_class', 'c.oid')}"
    )


def _sequences(version: int) -> str:
    owned_by = (
        f"(SELECT {_relation('d.refobjid')} || '.' || quote_ident(a.attname) FROM pg_depend AS d"
        " JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid"
        " WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid"
        " AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i'))"
    )
    return (
        _row(
            f"'sequence ' || {_quoted('n.nspname', 'c.relname')}",
            schema="n.nspname",
            type="format_type(s.seqtypid, NULL)",
            start="s.seqstart",
            increment="s.seqincrement",
            minimum="s.seqmin",
            maximum="s.seqmax",
            cache="s.seqcache",
            cycle="s.seqcycle",
            owned_by=owned_by,
            persistence="CASE c.relpersistence WHEN 'p' THEN 'permanent' WHEN 'u' THEN 'unlogged' ELSE 'temporary' END",
            owner=_owner("c.relowner"),
            acl=acl("c.relacl", "s", "c.relowner"),
            comment=_comment("c.oid", "pg_class"),
        )
        + " FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_class', 'c.oid')}"
    )


def _routines(version: int) -> str:
    # pg_get_functiondef refuses aggregates, hence their parts.
    aggregate = (
        "(SELECT jsonb_build_object('kind', g.aggkind::text, 'transition', g.aggtransfn::text,"
        " 'state', format_type(g.aggtranstype, NULL), 'space', g.aggtransspace, 'initial', g.agginitval,"
        " 'final', nullif(g.aggfinalfn::oid, 0)::regprocedure::text, 'final_extra', g.aggfinalextra,"
        " 'final_modify', g.aggfinalmodify::text, 'combine', nullif(g.aggcombinefn::oid, 0)::regprocedure::text,"
        " 'serial', nullif(g.aggserialfn::oid, 0)::regprocedure::text,"
        " 'deserial', nullif(g.aggdeserialfn::oid, 0)::regprocedure::text,"
        " 'moving_transition', nullif(g.aggmtransfn::oid, 0)::regprocedure::text,"
        " 'moving_inverse', nullif(g.aggminvtransfn::oid, 0)::regprocedure::text,"
        " 'moving_final', nullif(g.aggmfinalfn::oid, 0)::regprocedure::text, 'moving_initial', g.aggminitval,"
        " 'sort_operator', nullif(g.aggsortop, 0)::regoperator::text, 'direct_arguments', g.aggnumdirectargs,"
        " 'returns', pg_get_function_result(p.oid), 'arguments', pg_get_function_arguments(p.oid),"
        " 'parallel', p.proparallel::text) FROM pg_aggregate AS g WHERE g.aggfnoid = p.oid)"
    )
    return (
        _row(
            "CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate ' ELSE 'function ' END || "
            f"{_quoted('n.nspname', 'p.proname')} || '(' || pg_get_function_identity_arguments(p.oid) || ')'",
            schema="n.nspname",
            definition="CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END",
            aggregate=f"CASE WHEN p.prokind = 'a' THEN {aggregate} END",
            sql_body="CASE WHEN p.prosqlbody IS NOT NULL THEN true END",
            owner=_owner("p.proowner"),
            acl=acl("p.proacl", "f", "p.proowner"),
            comment=_comment("p.oid", "pg_proc"),
        )
        + " FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_proc', 'p.oid')}"
    )


_ENABLED = "CASE {column} WHEN 'O' THEN 'origin' WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' ELSE 'always' END"


def _triggers(version: int) -> str:
    return (
        _row(
            f"'trigger ' || {_quoted('n.nspname', 'c.relname', 't.tgname')}",
            schema="n.nspname",
            table="c.relname",
            definition="pg_get_triggerdef(t.oid)",
            enabled=_ENABLED.format(column="t.tgenabled"),
            comment=_comment("t.oid", "pg_trigger"),
        )
        + " FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        f" WHERE NOT t.tgisinternal AND {_schema_filter('n.nspname')} AND {_not_member('pg_class', 'c.oid')}"
        f" AND {_not_member('pg_trigger', 't.oid')}"
    )


def _rules(version: int) -> str:
    return (
        _row(
            f"'rule ' || {_quoted('n.nspname', 'c.relname', 'r.rulename')}",
            schema="n.nspname",
            table="c.relname",
            definition="pg_get_ruledef(r.oid)",
            enabled=_ENABLED.format(column="r.ev_enabled"),
            comment=_comment("r.oid", "pg_rewrite"),
        )
        + " FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        f" WHERE r.rulename <> '_RETURN' AND {_schema_filter('n.nspname')} AND {_not_member('pg_class', 'c.oid')}"
    )


def _policies(version: int) -> str:
    return (
        _row(
            f"'policy ' || {_quoted('n.nspname', 'c.relname', 'p.polname')}",
            schema="n.nspname",
            table="c.relname",
            command="CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update'"
            " WHEN 'd' THEN 'delete' ELSE 'all' END",
            permissive="p.polpermissive",
            roles="(SELECT jsonb_agg(name ORDER BY name COLLATE \"C\") FROM (SELECT CASE WHEN r = 0 THEN 'public'"
            " ELSE pg_get_userbyid(r)::text END AS name FROM unnest(p.polroles) AS r) AS granted)",
            using="pg_get_expr(p.polqual, p.polrelid)",
            check="pg_get_expr(p.polwithcheck, p.polrelid)",
            comment=_comment("p.oid", "pg_policy"),
        )
        + " FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_class', 'c.oid')}"
    )


def _statistics(version: int) -> str:
    return (
        _row(
            f"'statistics ' || {_quoted('n.nspname', 's.stxname')}",
            schema="n.nspname",
            table="c.relname",
            definition="pg_get_statisticsobjdef(s.oid)",
            statistics="nullif(s.stxstattarget, -1)",
            owner=_owner("s.stxowner"),
            comment=_comment("s.oid", "pg_statistic_ext"),
        )
        + " FROM pg_statistic_ext AS s JOIN pg_namespace AS n ON n.oid = s.stxnamespace"
        " JOIN pg_class AS c ON c.oid = s.stxrelid"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_statistic_ext', 's.oid')}"
    )


def _collations(version: int) -> str:
    locale = "c.colllocale" if version >= 170000 else "c.colliculocale"
    return (
        _row(
            f"'collation ' || {_quoted('n.nspname', 'c.collname')}",
            schema="n.nspname",
            provider="c.collprovider::text",
            deterministic="c.collisdeterministic",
            collate="c.collcollate",
            ctype="c.collctype",
            locale=locale,
            rules="c.collicurules" if version >= 160000 else "NULL::text",
            owner=_owner("c.collowner"),
            comment=_comment("c.oid", "pg_collation"),
        )
        + " FROM pg_collation AS c JOIN pg_namespace AS n ON n.oid = c.collnamespace"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_collation', 'c.oid')}"
    )


def _operators(version: int) -> str:
    return (
        _row(
            "'operator ' || quote_ident(n.nspname) || '.' || o.oprname || '(' ||"
            " CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END || ',' ||"
            " CASE WHEN o.oprright = 0 THEN 'NONE' ELSE format_type(o.oprright, NULL) END || ')'",
            schema="n.nspname",
            function="nullif(o.oprcode::oid, 0)::regprocedure::text",
            commutator="nullif(o.oprcom, 0)::regoperator::text",
            negator="nullif(o.oprnegate, 0)::regoperator::text",
            restrict="nullif(o.oprrest::oid, 0)::regproc::text",
            join="nullif(o.oprjoin::oid, 0)::regproc::text",
            merges="o.oprcanmerge",
            hashes="o.oprcanhash",
            owner=_owner("o.oprowner"),
            comment=_comment("o.oid", "pg_operator"),
        )
        + " FROM pg_operator AS o JOIN pg_namespace AS n ON n.oid = o.oprnamespace"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_operator', 'o.oid')}"
    )


def _operator_families(version: int) -> str:
    operators = (
        "(SELECT jsonb_agg(o.amopstrategy || ' ' || o.amopopr::regoperator::text || ' ' || o.amoppurpose::text"
        " ORDER BY o.amoplefttype::regtype::text, o.amoprighttype::regtype::text, o.amopstrategy)"
        " FROM pg_amop AS o WHERE o.amopfamily = f.oid)"
    )
    functions = (
        "(SELECT jsonb_agg(p.amprocnum || ' ' || p.amproc::regprocedure::text"
        " ORDER BY p.amproclefttype::regtype::text, p.amprocrighttype::regtype::text, p.amprocnum)"
        " FROM pg_amproc AS p WHERE p.amprocfamily = f.oid)"
    )
    return (
        _row(
            f"'operator family ' || {_quoted('n.nspname', 'f.opfname')} || ' using ' || quote_ident(am.amname)",
            schema="n.nspname",
            operators=operators,
            functions=functions,
            owner=_owner("f.opfowner"),
            comment=_comment("f.oid", "pg_opfamily"),
        )
        + " FROM pg_opfamily AS f JOIN pg_namespace AS n ON n.oid = f.opfnamespace"
        " JOIN pg_am AS am ON am.oid = f.opfmethod"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_opfamily', 'f.oid')}"
    )


def _operator_classes(version: int) -> str:
    return (
        _row(
            f"'operator class ' || {_quoted('n.nspname', 'o.opcname')} || ' using ' || quote_ident(am.amname)",
            schema="n.nspname",
            type="format_type(o.opcintype, NULL)",
            key_type="CASE WHEN o.opckeytype <> 0 THEN format_type(o.opckeytype, NULL) END",
            default="o.opcdefault",
            family="(SELECT quote_ident(fn.nspname) || '.' || quote_ident(f.opfname) FROM pg_opfamily AS f"
            " JOIN pg_namespace AS fn ON fn.oid = f.opfnamespace WHERE f.oid = o.opcfamily)",
            owner=_owner("o.opcowner"),
            comment=_comment("o.oid", "pg_opclass"),
        )
        + " FROM pg_opclass AS o JOIN pg_namespace AS n ON n.oid = o.opcnamespace"
        " JOIN pg_am AS am ON am.oid = o.opcmethod"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_opclass', 'o.oid')}"
    )


def _conversions(version: int) -> str:
    return (
        _row(
            f"'conversion ' || {_quoted('n.nspname', 'c.conname')}",
            schema="n.nspname",
            source="pg_encoding_to_char(c.conforencoding)",
            target="pg_encoding_to_char(c.contoencoding)",
            function="c.conproc::regproc::text",
            default="c.condefault",
            owner=_owner("c.conowner"),
            comment=_comment("c.oid", "pg_conversion"),
        )
        + " FROM pg_conversion AS c JOIN pg_namespace AS n ON n.oid = c.connamespace"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_conversion', 'c.oid')}"
    )


def _text_search_dictionaries(version: int) -> str:
    return (
        _row(
            f"'text search dictionary ' || {_quoted('n.nspname', 'd.dictname')}",
            schema="n.nspname",
            template="(SELECT quote_ident(tn.nspname) || '.' || quote_ident(t.tmplname) FROM pg_ts_template AS t"
            " JOIN pg_namespace AS tn ON tn.oid = t.tmplnamespace WHERE t.oid = d.dicttemplate)",
            options="d.dictinitoption",
            owner=_owner("d.dictowner"),
            comment=_comment("d.oid", "pg_ts_dict"),
        )
        + " FROM pg_ts_dict AS d JOIN pg_namespace AS n ON n.oid = d.dictnamespace"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_ts_dict', 'd.oid')}"
    )


def _text_search_configurations(version: int) -> str:
    mappings = (
        "(SELECT jsonb_object_agg(token, dictionaries) FROM (SELECT m.maptokentype AS token,"
        " jsonb_agg(m.mapdict::regdictionary::text ORDER BY m.mapseqno) AS dictionaries"
        " FROM pg_ts_config_map AS m WHERE m.mapcfg = g.oid GROUP BY m.maptokentype) AS mapped)"
    )
    return (
        _row(
            f"'text search configuration ' || {_quoted('n.nspname', 'g.cfgname')}",
            schema="n.nspname",
            parser="(SELECT quote_ident(pn.nspname) || '.' || quote_ident(p.prsname) FROM pg_ts_parser AS p"
            " JOIN pg_namespace AS pn ON pn.oid = p.prsnamespace WHERE p.oid = g.cfgparser)",
            mappings=mappings,
            owner=_owner("g.cfgowner"),
            comment=_comment("g.oid", "pg_ts_config"),
        )
        + " FROM pg_ts_config AS g JOIN pg_namespace AS n ON n.oid = g.cfgnamespace"
        f" WHERE {_schema_filter('n.nspname')} AND {_not_member('pg_ts_config', 'g.oid')}"
    )


# Objects of the whole database, in no schema. FirstNormalObjectId (16384) parts the user's from initdb's.


def _event_triggers(version: int) -> str:
    return (
        _row(
            "'event trigger ' || quote_ident(e.evtname)",
            event="e.evtevent",
            function="e.evtfoid::regprocedure::text",
            enabled=_ENABLED.format(column="e.evtenabled"),
            tags='(SELECT jsonb_agg(tag ORDER BY tag COLLATE "C") FROM unnest(e.evttags) AS tag)',
            owner=_owner("e.evtowner"),
            comment=_comment("e.oid", "pg_event_trigger"),
        )
        + f" FROM pg_event_trigger AS e WHERE {_not_member('pg_event_trigger', 'e.oid')}"
    )


def _publications(version: int) -> str:
    tables = (
        f"(SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('table', {_relation('r.prrelid')}, 'columns',"
        " (SELECT jsonb_agg(a.attname ORDER BY a.attname) FROM pg_attribute AS a WHERE a.attrelid = r.prrelid"
        " AND a.attnum = ANY (r.prattrs)), 'where', pg_get_expr(r.prqual, r.prrelid)))"
        f" ORDER BY {_relation('r.prrelid')}) FROM pg_publication_rel AS r WHERE r.prpubid = p.oid)"
    )
    schemas = (
        "(SELECT jsonb_agg(n.nspname ORDER BY n.nspname) FROM pg_publication_namespace AS m"
        " JOIN pg_namespace AS n ON n.oid = m.pnnspid WHERE m.pnpubid = p.oid)"
    )
    return (
        _row(
            "'publication ' || quote_ident(p.pubname)",
            all_tables="p.puballtables",
            insert="p.pubinsert",
            update="p.pubupdate",
            delete="p.pubdelete",
            truncate="p.pubtruncate",
            via_root="p.pubviaroot",
            generated_columns="p.pubgencols::text" if version >= 180000 else "NULL::text",
            tables=tables,
            schemas=schemas,
            owner=_owner("p.pubowner"),
            comment=_comment("p.oid", "pg_publication"),
        )
        + f" FROM pg_publication AS p WHERE {_not_member('pg_publication', 'p.oid')}"
    )


def _subscriptions(version: int) -> str:
    # The connection string is not readable without superuser, and may hold a password.
    return (
        _row(
            "'subscription ' || quote_ident(s.subname)",
            publications="(SELECT jsonb_agg(p ORDER BY p) FROM unnest(s.subpublications) AS p)",
            owner=_owner("s.subowner"),
            comment=_comment("s.oid", "pg_subscription"),
        )
        + " FROM pg_subscription AS s"
        " WHERE s.subdbid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())"
    )


def _foreign_data_wrappers(version: int) -> str:
    return (
        _row(
            "'foreign data wrapper ' || quote_ident(f.fdwname)",
            handler="nullif(f.fdwhandler, 0)::regproc::text",
            validator="nullif(f.fdwvalidator, 0)::regproc::text",
            options=_options("f.fdwoptions"),
            owner=_owner("f.fdwowner"),
            acl=acl("f.fdwacl", "F", "f.fdwowner"),
            comment=_comment("f.oid", "pg_foreign_data_wrapper"),
        )
        + f" FROM pg_foreign_data_wrapper AS f WHERE {_not_member('pg_foreign_data_wrapper', 'f.oid')}"
    )


def _servers(version: int) -> str:
    return (
        _row(
            "'server ' || quote_ident(s.srvname)",
            wrapper="(SELECT f.fdwname FROM pg_foreign_data_wrapper AS f WHERE f.oid = s.srvfdw)",
            type="s.srvtype",
            version="s.srvversion",
            options=_options("s.srvoptions"),
            owner=_owner("s.srvowner"),
            acl=acl("s.srvacl", "S", "s.srvowner"),
            comment=_comment("s.oid", "pg_foreign_server"),
        )
        + f" FROM pg_foreign_server AS s WHERE {_not_member('pg_foreign_server', 's.oid')}"
    )


def _user_mappings(version: int) -> str:
    # The options hold passwords: that a mapping exists is all that is told.
    return (
        _row("'user mapping ' || quote_ident(m.usename) || ' server ' || quote_ident(m.srvname)", user="m.usename")
        + " FROM pg_user_mappings AS m"
    )


def _casts(version: int) -> str:
    return (
        _row(
            "'cast ' || format_type(k.castsource, NULL) || ' as ' || format_type(k.casttarget, NULL)",
            function="nullif(k.castfunc, 0)::regprocedure::text",
            context="k.castcontext::text",
            method="k.castmethod::text",
            comment=_comment("k.oid", "pg_cast"),
        )
        + f" FROM pg_cast AS k WHERE k.oid >= 16384 AND {_not_member('pg_cast', 'k.oid')}"
    )


def _languages(version: int) -> str:
    return (
        _row(
            "'language ' || quote_ident(l.lanname)",
            trusted="l.lanpltrusted",
            handler="nullif(l.lanplcallfoid, 0)::regproc::text",
            owner=_owner("l.lanowner"),
            acl=acl("l.lanacl", "l", "l.lanowner"),
            comment=_comment("l.oid", "pg_language"),
        )
        + f" FROM pg_language AS l WHERE l.oid >= 16384 AND {_not_member('pg_language', 'l.oid')}"
    )


def _transforms(version: int) -> str:
    return (
        _row(
            "'transform ' || format_type(t.trftype, NULL) || ' language '"
            " || (SELECT quote_ident(l.lanname) FROM pg_language AS l WHERE l.oid = t.trflang)",
            from_sql="nullif(t.trffromsql::oid, 0)::regprocedure::text",
            to_sql="nullif(t.trftosql::oid, 0)::regprocedure::text",
        )
        + f" FROM pg_transform AS t WHERE {_not_member('pg_transform', 't.oid')}"
    )


def _access_methods(version: int) -> str:
    return (
        _row("'access method ' || quote_ident(a.amname)", form="a.amtype::text", handler="a.amhandler::regproc::text")
        + f" FROM pg_am AS a WHERE a.oid >= 16384 AND {_not_member('pg_am', 'a.oid')}"
    )


def _default_privileges(version: int) -> str:
    return (
        _row(
            "'default privileges ' || quote_ident(pg_get_userbyid(d.defaclrole)) ||"
            " coalesce(' in ' || (SELECT quote_ident(n.nspname) FROM pg_namespace AS n"
            " WHERE n.oid = d.defaclnamespace), '') || ' on ' || CASE d.defaclobjtype WHEN 'r' THEN 'tables'"
            " WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas'"
            " ELSE 'large objects' END",
            acl='(SELECT jsonb_agg(entry::text ORDER BY entry::text COLLATE "C") FROM unnest(d.defaclacl) AS entry)',
        )
        + " FROM pg_default_acl AS d"
    )


IN_SCHEMAS: tuple[Callable[[int], str], ...] = (
    _schemas,
    _types,
    _domain_constraints,
    _relations,
    _columns,
    _constraints,
    _indexes,
    _sequences,
    _routines,
    _triggers,
    _rules,
    _policies,
    _statistics,
    _collations,
    _operators,
    _operator_families,
    _operator_classes,
    _conversions,
    _text_search_dictionaries,
    _text_search_configurations,
)

OF_DATABASE: tuple[Callable[[int], str], ...] = (
    _extensions,
    _event_triggers,
    _publications,
    _subscriptions,
    _foreign_data_wrappers,
    _servers,
    _user_mappings,
    _casts,
    _languages,
    _transforms,
    _access_methods,
    _default_privileges,
)
