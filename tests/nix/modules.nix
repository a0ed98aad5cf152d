# As much of NixOS's module system as nix/module.nix needs, by builtins alone, so that it is tested without nixpkgs too:
# cases.nix has the same results by this and by the real one.
with builtins;
let
  # ---- lib

  pair = name: value: { inherit name value; };
  toAttrs = f: names: listToAttrs (map (name: pair name (f name)) names);
  unique = foldl' (seen: item: if elem item seen then seen else seen ++ [ item ]) [ ];
  # What each set has under a name
  under = name: concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]);
  tagged = _type: fields: fields // { inherit _type; };
  is = tag: value: isAttrs value && value._type or "" == tag;

  lib = {
    inherit any types;
    nameValuePair = pair;
    filterAttrs = keep: set: toAttrs (name: set.${name}) (filter (name: keep name set.${name}) (attrNames set));
    mapAttrs' = f: set: listToAttrs (lib.mapAttrsToList f set);
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
    optional = condition: value: lib.optionals condition [ value ];
    optionals = condition: list: if condition then list else [ ];
    optionalString = condition: text: if condition then text else "";
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    removePrefix = prefix: text: if lib.hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
    splitString = separator: text: filter isString (split separator text);
    inherit unique;
    concatLines = lib.concatMapStringsSep "" (line: "${line}\n");
    concatStrings = concatStringsSep "";
    last = list: elemAt list (length list - 1);
    toInt = fromJSON;
    toList = value: if isList value then value else [ value ];
    removeSuffix =
      suffix: text:
      let
        rest = stringLength text - stringLength suffix;
      in
      if rest >= 0 && substring rest (-1) text == suffix then substring 0 rest text else text;
    literalExpression = text: { inherit text; };
    literalMD = lib.literalExpression;
    mkOption = tagged "option";
    mkEnableOption =
      what:
      lib.mkOption {
        type = types.bool;
        default = false;
        description = "Whether to enable ${what}.";
      };
    mkIf = condition: content: tagged "if" { inherit condition content; };
    mkMerge = contents: tagged "merge" { inherit contents; };
  };

  # ---- Types: what is legal, and how several definitions make one value

  equal = loc: values: if all (v: v == head values) values then head values else fail loc "has several values";
  type = description: check: {
    inherit description check;
    merge = equal;
  };
  isAbsolute = v: (isString v || isPath v || v ? outPath) && substring 0 1 (toString v) == "/";
  types = {
    bool = type "boolean" isBool;
    str = type "string" isString;
    raw = type "anything" (_: true);
    package = type "package" (v: v.type or "" == "derivation");
    path = type "absolute path" isAbsolute;
    externalPath = type "path outside the store" (v: isString v && isAbsolute v && match "/nix/store/.*" v == null);
    strMatching = pattern: type "string matching ${pattern}" (v: isString v && match pattern v != null);
    ints.between = low: high: type "integer" (v: isInt v && low <= v && v <= high);
    port = types.ints.between 0 65535;
    addCheck = inner: check: inner // { check = v: inner.check v && check v; };
    nullOr = inner: {
      description = "null or ${inner.description}";
      check = v: v == null || inner.check v;
      merge = loc: values: if all isNull values then null else inner.merge loc values;
    };
    coercedTo =
      from: coerce: inner:
      let
        coerced = v: if from.check v then coerce v else v;
      in
      inner
      // {
        check = v: inner.check (coerced v);
        merge = loc: values: inner.merge loc (map coerced values);
      };
    listOf = inner: {
      description = "list of ${inner.description}";
      check = isList;
      merge = loc: concatMap (map (item: evaluateOption loc { type = inner; } [ item ]));
    };
    attrsOf = inner: {
      inherit inner;
      description = "set of ${inner.description}";
      check = isAttrs;
      merge =
        loc: sets:
        let
          defined = name: concatMap discharge (under name sets);
        in
        toAttrs (name: evaluateOption (loc ++ [ name ]) { type = inner; } (defined name)) (
          filter (name: defined name != [ ]) (unique (concatMap attrNames sets))
        );
    };
    submodule = module: {
      inherit module;
      description = "submodule";
      check = isAttrs;
      merge = loc: values: evaluate loc { name = elemAt loc (length loc - 1); } ([ module ] ++ values);
    };
  };

  # ---- From definitions to values

  fail = loc: what: throw "${concatStringsSep "." loc} ${what}";

  # The values of a definition whose conditions hold
  discharge =
    definition:
    if is "merge" definition then
      concatMap discharge definition.contents
    else if is "if" definition then
      lib.optionals definition.condition (discharge definition.content)
    else
      [ definition ];

  evaluateOption =
    loc: option: definitions:
    let
      defined = concatMap discharge definitions;
      found = if defined == [ ] && option ? default then [ option.default ] else defined;
    in
    if found == [ ] then
      fail loc "is not defined"
    else if !(all option.type.check found) then
      fail loc "is not of type ${option.type.description}"
    else
      option.type.merge loc found;

  # Sets of definitions, their conditions moved to what is in them: these may depend on other options.
  pushDown =
    definition:
    if is "merge" definition then
      concatMap pushDown definition.contents
    else if is "if" definition then
      map (mapAttrs (_: content: definition // { inherit content; })) (pushDown definition.content)
    else
      [ definition ];

  # Several declarations of an option are sets of submodules, which become one.
  joined =
    options:
    if length options == 1 then
      head options
    else
      head options
      // {
        type = types.attrsOf (types.submodule { imports = map (option: option.type.inner.module) options; });
      };

  evaluateTree =
    loc: options: definitions:
    let
      sets = concatMap pushDown definitions;
      names = unique (concatMap attrNames options);
      unknown = filter (name: !elem name names) (concatMap attrNames sets);
      child =
        name:
        let
          declared = under name options;
        in
        if is "option" (head declared) then
          evaluateOption (loc ++ [ name ]) (joined declared) (under name sets)
        else
          evaluateTree (loc ++ [ name ]) declared (under name sets);
    in
    if unknown != [ ] then fail loc "has no option ${toString unknown}" else toAttrs child names;

  evaluate =
    loc: arguments: modules:
    let
      load =
        module:
        let
          content = if isPath module then import module else module;
          result = if isFunction content then content (arguments // { inherit config lib; }) else content;
        in
        concatMap load (result.imports or [ ]) ++ [ result ];
      loaded = concatMap load modules;
      config = evaluateTree loc (map (m: m.options or { }) loaded) (
        map (m: m.config or (removeAttrs m [ "imports" "options" ])) loaded
      );
    in
    config;
in
{
  inherit lib;
  evalModules = evaluate [ ];
}
