# What nix/module.nix makes of options: for each case what is got and what is expected, by our own small module system,
# or by NixOS where `nixpkgs` is given.
{
  nixpkgs ? null,
}:
let
  inherit (builtins)
    any
    attrNames
    concatStringsSep
    deepSeq
    elem
    filter
    isString
    listToAttrs
    mapAttrs
    match
    split
    tryEval
    ;
  inherit (import ../../nix/render.nix) text;

  # ---- the two systems

  package = {
    type = "derivation";
    name = "wgns-helpers";
    outPath = "/nix/store/00000000000000000000000000000000-wgns-helpers";
  };
  common.my.wireguard.package = package;

  evaluate =
    if nixpkgs == null then
      module:
      (import ./modules.nix).evalModules { pkgs = { }; } [
        ./nixos.nix
        ../../nix/module.nix
        common
        module
      ]
    else
      module:
      (import (nixpkgs + "/nixos/lib/eval-config.nix") {
        system = "x86_64-linux";
        modules = [
          ../../nix/module.nix
          common
          module
          {
            boot.loader.grub.enable = false;
            fileSystems."/" = {
              device = "/dev/vda";
              fsType = "ext4";
            };
            system.stateVersion = "25.11";
          }
        ];
      }).config;

  # ---- what is looked at

  keep =
    wanted: set:
    listToAttrs (
      map (name: {
        inherit name;
        value = set.${name};
      }) (filter wanted (attrNames set))
    );
  # A unit's text without blank lines and without what NixOS adds: the environment, and notes to itself
  plain =
    written:
    concatStringsSep "\n" (
      filter (line: isString line && match "|#.*|Environment=\"(LOCALE_ARCHIVE|PATH|TZDIR)=.*|X-.*" line == null) (split "\n" written)
    );
  # A unit without the options that say nothing
  said =
    unit:
    keep (
      name:
      elem name [
        "after"
        "before"
        "bindsTo"
        "conflicts"
        "description"
        "serviceConfig"
        "socketConfig"
        "unitConfig"
        "wantedBy"
        "wants"
      ]
      && !(elem unit.${name} [
        [ ]
        { }
        ""
      ])
    ) unit;

  look =
    module:
    let
      config = evaluate module;
      cfg = config.my.wireguard;
      services = keep (
        name: match "netns@|wg|wg@.*|wgns-publish.*" name != null || module.systemd.services or { } ? ${name}
      ) config.systemd.services;
      sockets = keep (
        name: module.systemd.sockets or { } ? ${name} || match "wgns-.*" name != null
      ) config.systemd.sockets;
      unitText =
        name: unit:
        builtins.replaceStrings [ "${config.systemd.package}/lib" ] [ "/usr/lib" ] (plain (if nixpkgs == null then text (said unit) else config.systemd.units.${name}.text));
      values = removeAttrs cfg [
        "address"
        "tunnels"
        "package"
      ]
      // cfg.address;
    in
    {
      services = mapAttrs (name: unitText "${name}.service") services;
      sockets = mapAttrs (name: unitText "${name}.socket") sockets;
      # What a rebuild does to a running unit that has changed
      rebuild = mapAttrs (
        _: unit:
        if unit.reloadIfChanged then
          { reload = unit.restartTriggers; }
        else if unit.restartIfChanged then
          "restart"
        else
          "nothing"
      ) services;
      etc = mapAttrs (_: file: if file.text == null then { link = file.source; } else file.text) (
        keep (name: match "wireguard/.*" name != null) config.environment.etc
      );
      failed = map (a: a.message) (filter (a: !a.assertion) config.assertions);
      inherit (config) warnings;
      installed = any (p: p.name or "" == package.name) config.environment.systemPackages;
      refresh = config.systemd.timers ? wgns-refresh && config.systemd.services ? wgns-refresh;
      refused = filter (name: !(tryEval (deepSeq values.${name} true)).success) (attrNames values);
    };

  # ---- what is expected

  ours = mapAttrs (_: plain) (mapAttrs (_: text) (
    import ../../nix/units.nix { bin = "${package}/bin/"; }
  ).services);
  # The tunnel's unit, which wants these
  wanting =
    unit: names:
    builtins.replaceStrings [ "wgns-refresh.timer" ] [ "wgns-refresh.timer ${names}" ] unit;
  fine = {
    failed = [ ];
    warnings = [ ];
  };

  key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
  minimal = {
    address.IPv4 = "10.64.0.2/32";
    peer = key;
    endpoint = "192.0.2.1:51820";
    privateKey = "/root/wg.key";
  };
  minimalText = ''
    [Interface]
    PrivateKeyFile = /root/wg.key
    Address = 10.64.0.2/32

    [Peer]
    PublicKey = ${key}
    AllowedIPs = 0.0.0.0/0, ::/0
    Endpoint = 192.0.2.1:51820
  '';
  wg = {
    my.wireguard = minimal // {
      enable = true;
    };
  };

  cases = {
    # As in the article
    article = {
      module = {
        my.wireguard = {
          enable = true;
          address.IPv4 = "10.64.0.2/32";
          address.IPv6 = "fd00::2/128";
          peer = key;
          endpoint = "vpn.example.com:51820";
          privateKey = "/root/wg.key";
        };
        systemd.services.web = {
          bindsTo = [ "wg.service" ];
          after = [ "wg.service" ];
          unitConfig.JoinsNamespaceOf = "netns@wg.service";
          serviceConfig = {
            ExecStart = "/bin/web";
            PrivateNetwork = true;
          };
        };
      };
      expected = fine // rec {
        services = {
          "netns@" = ours."netns@";
          wg = ours.wg;
          web = plain ''
            [Unit]
            After=wg.service
            BindsTo=wg.service
            JoinsNamespaceOf=netns@wg.service
            [Service]
            ExecStart=/bin/web
            PrivateNetwork=true
          '';
        };
        rebuild = {
          "netns@" = "nothing";
          wg.reload = [ etc."wireguard/wg.conf" ];
          web = "restart";
        };
        etc."wireguard/wg.conf" = ''
          [Interface]
          PrivateKeyFile = /root/wg.key
          Address = 10.64.0.2/32, fd00::2/128

          [Peer]
          PublicKey = ${key}
          AllowedIPs = 0.0.0.0/0, ::/0
          Endpoint = vpn.example.com:51820
        '';
        installed = true;
      };
    };

    every-setting = {
      module = {
        my.wireguard = {
          enable = true;
          address.IPv6 = "fd00::2";
          peer = key;
          endpoint = "[2001:db8::1]:51820";
          privateKey = ./cases.nix; # the literal is taken by its name
          presharedKeyFile = "/root/wg.psk";
          dns = [
            "10.64.0.1"
            "example.com"
          ];
          allowedIPs = [ "10.0.0.0/8" ];
          mtu = 1380;
          listenPort = 51820;
          persistentKeepalive = 25;
          waitHandshake = 30;
        };
      };
      expected = fine // {
        services = {
          "netns@" = ours."netns@";
          wg = builtins.replaceStrings
            [ "Environment=WG_UP_OPTIONS=--resolve-timeout=30" ]
            [ "Environment=\"WG_UP_OPTIONS=--resolve-timeout=30 --wait-handshake=30\"" ]
            ours.wg;
        };
        etc."wireguard/wg.conf" = ''
          [Interface]
          PrivateKeyFile = ${toString ./cases.nix}
          Address = fd00::2
          ListenPort = 51820
          MTU = 1380
          DNS = 10.64.0.1, example.com

          [Peer]
          PublicKey = ${key}
          PresharedKeyFile = /root/wg.psk
          AllowedIPs = 10.0.0.0/8
          Endpoint = [2001:db8::1]:51820
          PersistentKeepalive = 25
        '';
      };
    };

    providers-file = {
      module.my.wireguard = {
        enable = true;
        configFile = "/root/provider.conf";
        waitHandshake = null;
        publish = {
          "127.0.0.1:9091" = 9091;
          "[::1]:9091" = 9091;
        };
      };
      expected = fine // {
        refresh = true;
        services = {
          "netns@" = ours."netns@";
          wg = ours.wg;
          wgns-publish-wg-9091 = builtins.replaceStrings
            [ "wg@NAME.service" "NAME" ]
            [ "wg.service" "wg" ]
            (plain (builtins.readFile ../../systemd/examples/publish.service));
        };
        sockets.wgns-publish-wg-9091 = plain ''
          [Unit]
          After=sysinit.target wg.service
          Before=shutdown.target
          BindsTo=wg.service
          Conflicts=shutdown.target
          DefaultDependencies=false
          Description=Port 9091 in the network namespace wg
          [Socket]
          ListenStream=127.0.0.1:9091
          ListenStream=[::1]:9091
          [Install]
          WantedBy=wg.service
        '';
        rebuild = {
          "netns@" = "nothing";
          wg.reload = [ "/root/provider.conf" ];
          wgns-publish-wg-9091 = "restart";
        };
        etc."wireguard/wg.conf".link = "/root/provider.conf";
      };
    };

    not-enabled = {
      module.my.wireguard = minimal;
      expected = {
        services = { };
        etc = { };
        installed = false;
        failed = [ ];
        warnings = [
          ''
            my.wireguard has settings (address.IPv4 endpoint peer privateKey), but there is no tunnel wg.
            Set my.wireguard.enable = true, or leave them out''
        ];
      };
    };

    # Names that systemd or switch-to-configuration could stumble over, and one that is not enabled
    further-tunnels = {
      module.my.wireguard.tunnels = {
        my-vpn = minimal;
        "a.b@c" = minimal;
        later = {
          enable = false;
        };
      };
      expected = fine // {
        services = {
          "netns@" = ours."netns@";
          "wg@my-vpn" = ours."wg@";
          "wg@a.b@c" = ours."wg@";
        };
        rebuild = {
          "netns@" = "nothing";
          "wg@my-vpn".reload = [ minimalText ];
          "wg@a.b@c".reload = [ minimalText ];
        };
        etc = {
          "wireguard/my-vpn.conf" = minimalText;
          "wireguard/a.b@c.conf" = minimalText;
        };
        installed = true;
      };
    };

    # The tunnel wants a service that is wanted by something else too; a timer's it leaves to the timer.
    confined-services = {
      module = {
        my.wireguard.tunnels = {
          my-vpn = minimal;
          part = minimal // {
            allowedIPs = [ "10.64.0.0/16" ];
          };
        };
        systemd.services = {
          web = {
            wireguardTunnel = "my-vpn";
            wantedBy = [ "multi-user.target" ];
            serviceConfig.ExecStart = "/bin/web";
            serviceConfig.TemporaryFileSystem = "/var";
            serviceConfig.BindReadOnlyPaths = [ "/run/secrets" ];
            serviceConfig.CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
            serviceConfig.SystemCallFilter = "@system-service";
            serviceConfig.RestrictAddressFamilies = "AF_INET";
          };
          backup = {
            wireguardTunnel = "part";
            serviceConfig.ExecStart = "/bin/backup";
          };
        };
      };
      expected = fine // {
        services = {
          "netns@" = ours."netns@";
          "wg@my-vpn" = wanting ours."wg@" "web.service";
          "wg@part" = ours."wg@";
          web = plain ''
            [Unit]
            After=wg@my-vpn.service
            BindsTo=wg@my-vpn.service
            [Service]
            BindReadOnlyPaths=/run/secrets
            BindReadOnlyPaths=/etc/netns/my-vpn/nsswitch.conf:/etc/nsswitch.conf
            BindReadOnlyPaths=/etc/netns/my-vpn/resolv.conf:/etc/resolv.conf
            BindReadOnlyPaths=/run/netns/my-vpn
            BindReadOnlyPaths=-/run/current-system
            BindReadOnlyPaths=-/run/systemd/journal
            BindReadOnlyPaths=-/run/systemd/notify
            CapabilityBoundingSet=CAP_NET_BIND_SERVICE
            CapabilityBoundingSet=~CAP_BPF CAP_DAC_READ_SEARCH CAP_MKNOD CAP_NET_ADMIN CAP_PERFMON CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_MODULE CAP_SYS_PTRACE CAP_SYS_RAWIO
            DevicePolicy=closed
            ExecStart=/bin/web
            ExecStartPre=/usr/bin/env -i JOURNAL_STREAM=''${JOURNAL_STREAM} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONNOUSERSITE=1 ${package}/bin/wgns check my-vpn
            InaccessiblePaths=-/etc/wireguard
            NetworkNamespacePath=/run/netns/my-vpn
            NoNewPrivileges=true
            ProtectControlGroups=true
            ProtectKernelTunables=true
            ProtectProc=ptraceable
            RestrictAddressFamilies=AF_INET
            RestrictAddressFamilies=~AF_VSOCK AF_QIPCRTR AF_RDS
            SystemCallErrorNumber=EPERM
            SystemCallFilter=@system-service
            SystemCallFilter=~@keyring
            TemporaryFileSystem=/var
            TemporaryFileSystem=/run
            [Install]
            WantedBy=multi-user.target
          '';
          backup = plain ''
            [Unit]
            After=wg@part.service
            BindsTo=wg@part.service
            [Service]
            BindReadOnlyPaths=/etc/netns/part/nsswitch.conf:/etc/nsswitch.conf
            BindReadOnlyPaths=/etc/netns/part/resolv.conf:/etc/resolv.conf
            BindReadOnlyPaths=/run/netns/part
            BindReadOnlyPaths=-/run/current-system
            BindReadOnlyPaths=-/run/systemd/journal
            BindReadOnlyPaths=-/run/systemd/notify
            CapabilityBoundingSet=~CAP_BPF CAP_DAC_READ_SEARCH CAP_MKNOD CAP_NET_ADMIN CAP_PERFMON CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_MODULE CAP_SYS_PTRACE CAP_SYS_RAWIO
            DevicePolicy=closed
            ExecStart=/bin/backup
            ExecStartPre=/usr/bin/env -i JOURNAL_STREAM=''${JOURNAL_STREAM} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONNOUSERSITE=1 ${package}/bin/wgns check part
            InaccessiblePaths=-/etc/wireguard
            NetworkNamespacePath=/run/netns/part
            NoNewPrivileges=true
            ProtectControlGroups=true
            ProtectKernelTunables=true
            ProtectProc=ptraceable
            RestrictAddressFamilies=~AF_VSOCK AF_QIPCRTR AF_RDS
            SystemCallErrorNumber=EPERM
            SystemCallFilter=~@keyring
            TemporaryFileSystem=/run
          '';
        };
      };
    };

    confined-sockets = {
      module = wg // {
        systemd.services = {
          web.wireguardTunnel = "wg";
          "each@".wireguardTunnel = "wg";
          free = { };
        };
        systemd.sockets = {
          web = {
            wantedBy = [ "sockets.target" ];
            socketConfig.ListenStream = "80";
          };
          each.socketConfig.Accept = true;
          web-admin = {
            wireguardTunnel = "wg";
            socketConfig.Service = "web.service";
          };
          free = {
            description = "not confined";
            wantedBy = [ "sockets.target" ];
            socketConfig.ListenStream = "81";
          };
        };
      };
      expected = fine // {
        sockets =
          let
            joining =
              settings:
              plain ''
                [Unit]
                After=sysinit.target wg.service
                Before=shutdown.target
                BindsTo=wg.service
                Conflicts=shutdown.target
                DefaultDependencies=false
                [Socket]
                ${settings}
                [Install]
                WantedBy=wg.service
              '';
          in
          {
            web = joining "ListenStream=80\nNetworkNamespacePath=/run/netns/wg";
            each = joining "Accept=true\nNetworkNamespacePath=/run/netns/wg";
            web-admin = joining "NetworkNamespacePath=/run/netns/wg\nService=web.service";
            free = plain ''
              [Unit]
              Description=not confined
              [Socket]
              ListenStream=81
              [Install]
              WantedBy=sockets.target
            '';
          };
      };
    };

    impossible-tunnels = {
      module.my.wireguard = {
        enable = true;
        tunnels = {
          file = minimal // {
            configFile = "/root/file.conf";
            allowedIPs = [ "10.0.0.0/8" ];
            mtu = 1400;
          };
          wg = minimal;
          fifteen-is-fine = minimal;
          sixteen-is-a-lot = minimal;
          "a/b" = minimal;
          "-a" = minimal;
          ".." = minimal;
          lo = minimal;
        };
      };
      expected.failed = [
        (badName "-a")
        (badName "..")
        (badName "a/b")
        (badName "lo")
        (badName "sixteen-is-a-lot")
        "my.wireguard.tunnels.wg: the tunnel wg is my.wireguard itself; set it there"
        ''
          my.wireguard.tunnels."file": configFile is in place of all other settings, but set are: address.IPv4 allowedIPs endpoint mtu peer privateKey.
          Write them in /root/file.conf, or leave configFile out''
        "my.wireguard: privateKey is missing; set it, or configFile in place of all"
        "my.wireguard: peer is missing; set it, or configFile in place of all"
        "my.wireguard: endpoint is missing; set it, or configFile in place of all"
        "my.wireguard: there is no address; set address.IPv4, address.IPv6 or both"
      ];
    };

    impossible-services = {
      module = {
        my.wireguard.tunnels.home = minimal;
        my.wireguard.tunnels.work = minimal;
        systemd.services = {
          bus = {
            wireguardTunnel = "home";
            before = [ "network-online.target" ];
            serviceConfig.BusName = "org.example.Bus";
            serviceConfig.PrivateNetwork = false;
          };
          elsewhere = {
            wireguardTunnel = "home";
            serviceConfig.NetworkNamespacePath = "/run/netns/work";
            serviceConfig.PrivateNetwork = true;
          };
          joining = {
            wireguardTunnel = "home";
            unitConfig.JoinsNamespaceOf = "netns@wg.service";
          };
          unknown.wireguardTunnel = "wg";
          web.wireguardTunnel = "home";
        };
        systemd.sockets = {
          admin.socketConfig.Service = "web.service";
          web.socketConfig.NetworkNamespacePath = "/run/netns/work";
        };
      };
      expected.failed = [
        ''
          systemd.services."bus": a service on the system bus answers the host, and has no bus when it is confined (it is in /run).
          Leave out wireguardTunnel, or Type = "dbus" and BusName''
        ''
          systemd.services."bus": it is ordered before network-online.target, which its tunnel waits for.
          Leave out wireguardTunnel, or set before = lib.mkForce [ ]''
        (ownNamespace "services.\"elsewhere\"")
        (ignored "elsewhere")
        (ignored "joining")
        ''
          systemd.services."unknown": wireguardTunnel = "wg" is none of the tunnels that are enabled: "home", "work".
          my.wireguard.enable enables "wg", my.wireguard.tunnels has the others''
        ''
          systemd.sockets."admin": wireguardTunnel = null, but starts web.service, which has "home".
          Set both to the same''
        (ownNamespace "sockets.\"web\"")
      ];
    };

    # Values of another form, among them all that would end a line of the configuration
    refused = {
      module.my.wireguard = {
        enable = true;
        address.IPv4 = "10.64.0.2/32\nPostUp = reboot";
        address.IPv6 = "fd00::2 # mine";
        peer = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dh=";
        endpoint = "vpn.example.com";
        privateKey = "/nix/store/00000000000000000000000000000000-key";
        presharedKeyFile = "/root/a,b";
        configFile = "provider.conf";
        dns = [ "10.64.0.1\n" ];
        allowedIPs = [ "everything" ];
        mtu = 67;
        listenPort = 65536;
        persistentKeepalive = -1;
      };
      expected.refused = [
        "IPv4"
        "IPv6"
        "allowedIPs"
        "configFile"
        "dns"
        "endpoint"
        "listenPort"
        "mtu"
        "peer"
        "persistentKeepalive"
        "presharedKeyFile"
        "privateKey"
      ];
    };
  };
  badName = name: ''
    my.wireguard.tunnels."${name}": not a name for an interface and a unit.
    Legal: 1 to 15 letters, digits, _ . - @ with no leading dash, but not ".", "..", "all", "default" or "lo"'';
  ignored = name: ''
    systemd.services."${name}": wireguardTunnel makes systemd ignore PrivateNetwork and JoinsNamespaceOf.
    Leave them out; what another module sets, lib.mkForce false turns off'';
  ownNamespace = unit: "systemd.${unit}: NetworkNamespacePath is set by wireguardTunnel; leave out one of the two";
in
mapAttrs (
  _: case:
  let
    got = look case.module;
  in
  {
    inherit (case) expected;
    got = mapAttrs (aspect: _: got.${aspect}) case.expected;
  }
) cases
