# The options of nix/module.nix: their names, and those that lack a type or a description.
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    isFunction
    ;

  module = import ../../nix/module.nix {
    inherit (import ./modules.nix) lib;
    config = { };
    pkgs = { };
  };

  walk =
    place: options:
    concatMap (
      name:
      let
        option = options.${name};
        here = place + name;
      in
      if option._type or "" == "option" then
        [
          {
            name = here;
            described = option ? type && option.description or "" != "";
          }
        ]
        ++ inside here option.type
      else
        walk "${here}." option
    ) (attrNames options);

  inside =
    place: type:
    if type ? inner then
      inside place type.inner
    else if type ? module then
      let
        module = if isFunction type.module then type.module submoduleArguments else type.module;
      in
      walk "${place}.<name>." module.options
    else
      [ ];

  submoduleArguments = {
    config = { };
    name = "";
  };

  found = walk "" module.options;
in
{
  names = map (option: option.name) found;
  undescribed = map (option: option.name) (filter (option: !option.described) found);
}
